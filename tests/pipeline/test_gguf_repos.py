"""Repositories that hold GGUF files already: nothing is converted, and the converter need not be there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType, GGUFWriter

from appliance.models.store import StoredModel
from tests.pipeline.hub import GOOD_TOKEN, LoopbackHub, Repo, running_hub
from tests.pipeline.workplace import Workplace

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    with running_hub() as serving:
        yield Workplace(tmp_path / "place", serving, {"APPLIANCE_CONVERTER_PYTHON": "/nonexistent"})


@pytest.fixture(scope="module")
def content(stored: StoredModel) -> bytes:
    return stored.path.read_bytes()


def serve_file(hub: LoopbackHub, content: bytes) -> None:
    hub.repos["org/Small-GGUF"] = Repo({"small-Q4_1.gguf": content, "small-Q8_0.gguf": b"not this one" * 1000})


def test_a_file_is_published_as_it_is(place: Workplace, content: bytes, stored: StoredModel) -> None:
    serve_file(place.hub, content)
    place.run("add", "org/Small-GGUF", "--file", "*Q4_1.gguf", "--name", "small")
    place.run("build", "small")
    assert list(place.published().values()) == [content]
    (version,) = place.lock.entry("small").versions
    assert version.gguf is not None
    assert (version.gguf.sha256, version.quantization) == (stored.record.gguf_sha256, "Q4_1")
    assert version.conversion is None


def test_a_gated_one_takes_a_token_from_a_file(place: Workplace, content: bytes, tmp_path: Path) -> None:
    serve_file(place.hub, content)
    place.hub.repos["org/Small-GGUF"].gated = True
    (tmp_path / "token").write_text(GOOD_TOKEN)
    place.run("add", "org/Small-GGUF", "--file", "*Q4_1.gguf", "--name", "small")
    assert "is gated: accept its conditions" in place.run("build", "small", status=1)
    place.more["HF_TOKEN_PATH"] = str(tmp_path / "token")
    said = place.run("build", "small")
    assert GOOD_TOKEN not in said
    assert list(place.published().values()) == [content]
    assert place.lock.entry("small").versions[0].source.gated  # type: ignore[union-attr]


def test_wrong_bytes_and_a_wrong_lock_are_refused_with_both_hashes(
    place: Workplace, content: bytes, stored: StoredModel
) -> None:
    serve_file(place.hub, content)
    place.run("add", "org/Small-GGUF", "--file", "*Q4_1.gguf", "--name", "small")
    place.hub.faults.wrong = "small-Q4_1.gguf"
    said = place.run("build", "small", status=1)
    assert stored.record.gguf_sha256 in said
    assert "what came was thrown away" in said
    place.hub.faults.wrong = None
    place.run("build", "small")
    place.run("rm", "small", "--yes")
    assert place.published() == {}
    place.run("add", "org/Small-GGUF", "--file", "*Q4_1.gguf", "--name", "small")
    text = place.lock_path.read_text()
    gguf = f'\n[models.versions.gguf]\nsha256 = "{"0" * 64}"\nsize_bytes = 1\nchat_template_sha256 = "{"0" * 64}"\n'
    place.lock_path.write_text(text + gguf)
    said = place.run("build", "small", status=1)
    assert f"has sha256 {stored.record.gguf_sha256}, models.lock says {'0' * 64}" in said
    assert place.published() == {}


def test_shards_are_joined_to_the_same_bytes_each_time(place: Workplace, stored: StoredModel, tmp_path: Path) -> None:
    shards = split(stored.path, tmp_path / "small-Q4_1.gguf")
    assert len(shards) == 3
    place.hub.repos["org/Small-GGUF"] = Repo({shard.name: shard.read_bytes() for shard in shards})
    place.run("add", "org/Small-GGUF", "--file", "*.gguf", "--name", "small")
    place.run("build", "small")
    (path,) = place.models.glob("*/*/model.gguf")
    joined = {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}
    whole = GGUFReader(stored.path).tensors
    assert len(joined) == len(whole) == 272
    assert all(np.array_equal(joined[tensor.name], tensor.data) for tensor in whole)
    assert place.run("verify", "--rebuild").endswith(": ok\n")


def split(path: Path, target: Path) -> list[Path]:
    """The same model in parts, as `llama-gguf-split` makes them."""
    reader = GGUFReader(path)
    writer = GGUFWriter(target, "llama", split_max_tensors=100)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        options: dict[str, Any] = {"sub_type": field.types[-1]} if field.types[0] == GGUFValueType.ARRAY else {}
        writer.add_key_value(field.name, field.contents(), field.types[0], **options)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(target.parent.glob("*-of-*.gguf"))


def test_a_local_file_becomes_an_entry(place: Workplace, stored: StoredModel, tmp_path: Path) -> None:
    file = tmp_path / "My Model (1).gguf"
    file.write_bytes(stored.path.read_bytes())
    said = place.run("import", str(file), "--license", "Apache-2.0")
    assert f"my-model-1@{stored.record.gguf_sha256[:12]} is in " in said
    entry = place.lock.entry("my-model-1")
    assert entry.license == "Apache-2.0"
    assert entry.versions[0].quantization == "Q4_1"
    place.run("import", str(file))
    assert place.lock.entry("my-model-1") == entry, "nothing is there twice"
    file.unlink()
    assert place.run("verify", "--deep").endswith(": ok\n")
    (path,) = place.models.glob("*/*/model.gguf")
    path.unlink()
    assert "damaged" in place.run("ls")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"a text"])
def test_a_local_file_that_is_no_model_is_refused(place: Workplace, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)
    assert "is no readable GGUF file" in place.run("import", str(tmp_path / "bad.gguf"), status=1)
    assert "No such file" in place.run("import", str(tmp_path / "none.gguf"), status=1)
    assert place.lock.models == ()


def test_what_is_not_named_any_more_is_freed(place: Workplace, content: bytes) -> None:
    serve_file(place.hub, content)
    place.run("add", "org/Small-GGUF", "--file", "*Q4_1.gguf", "--name", "small")
    place.run("build", "small")
    stray = place.models / "gone" / ("0" * 12)
    stray.mkdir(parents=True)
    (stray / "model.gguf").write_bytes(b"x" * 2_000_000)
    said = place.run("gc", status=1)
    assert f"2.0 MB  {stray}" in said
    assert "say --yes" in said
    assert stray.exists()
    place.run("gc", "--yes")
    assert not stray.parent.exists()
    assert not list((place.models / ".work" / "sources").iterdir())
    assert list(place.published().values()) == [content]
    assert place.run("gc", "--yes") == "nothing to free\n"
