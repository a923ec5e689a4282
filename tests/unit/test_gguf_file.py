"""The reader of GGUF headers against files that gguf writes, and against anything else."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.errors import ConfigError
from appliance.models.gguf_file import MAX_HEADER_BYTES, MAX_TEXT_BYTES, read_gguf


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "good.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_token_list(["<unk>", "<|end|>", "a", "ü"])
    writer.add_token_types([2, 3, 1, 1])
    writer.add_token_scores([0.0, -1.5, 2.0, 0.25])
    writer.add_bool("llama.yes", True)
    writer.add_float64("llama.double", 0.1)
    writer.add_int8("llama.small", -3)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.add_tensor("blk.0.q", np.zeros((2, 18), np.uint8), raw_dtype=GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_it_reads_what_gguf_reads(good: Path) -> None:
    reader, file = GGUFReader(good), read_gguf(good)
    theirs = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    ours = {name: list(value) if hasattr(value, "typecode") else value for name, value in file.metadata.items()}
    assert ours == theirs
    assert [(t.name, t.type_name, t.offset, t.n_bytes) for t in file.tensors] == [
        (t.name, t.tensor_type.name, t.data_offset, t.n_bytes) for t in reader.tensors
    ]
    assert [t.shape for t in file.tensors] == [tuple(t.shape) for t in reader.tensors] == [(32, 4), (32, 2)]


def test_each_shorter_file_is_refused(good: Path, tmp_path: Path) -> None:
    content = good.read_bytes()
    path = tmp_path / "cut.gguf"
    end = max(tensor.offset + tensor.n_bytes for tensor in read_gguf(good).tensors)  # what follows is padding
    for n_bytes in range(end):
        path.write_bytes(content[:n_bytes])
        with pytest.raises(ConfigError, match="no readable GGUF file"):
            read_gguf(path)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(good: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, len(content) - 1))
        what = data.draw(
            st.one_of(st.binary(min_size=1, max_size=1), st.sampled_from([b"\xff" * 8, b"\x00" * 8, b"\x7f" * 4]))
        )
        content[where : where + len(what)] = what
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        file = read_gguf(path)
    except ConfigError:
        return
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 << 20, "it allocates what a file claims"
    assert all(tensor.offset + tensor.n_bytes <= len(content) for tensor in file.tensors)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_anything_behind_the_magic_number_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + content)
    try:
        file = read_gguf(path)
    except ConfigError:
        return
    assert file.tensors == ()


def header(*fields: bytes, n_tensors: int = 0, n_fields: int | None = None) -> bytes:
    n_fields = len(fields) if n_fields is None else n_fields
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_fields) + b"".join(fields)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "doesn't begin with GGUF"),
        (b"GGML" + bytes(100), "doesn't begin with GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "its version is 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "its version is 50331648"),
        (header(n_tensors=2**60), "the number of tensors is"),
        (header(n_fields=2**63), "the number of metadata fields is"),
        (header(struct.pack("<Q", 2**40)), "more than the file has room for"),
        (header(text(b"k" * 70_000) + struct.pack("<IB", 0, 1)), "a metadata key is 70000 bytes long"),
        (header(text(b"k") + struct.pack("<I", 99) + bytes(20)), "k has the unknown type 99"),
        (header(text(b"k") + struct.pack("<IIQ", 9, 9, 1) + bytes(20)), "may not stand in an array"),
        (header(text(b"k") + struct.pack("<IIQ", 9, 4, 2**62) + bytes(20)), "the length of k is"),
        (header(text(b"k") + struct.pack("<IIQ", 9, 8, 10) + bytes(20)), "the length of k is 10"),
        (header(*[text(b"k") + struct.pack("<IB", 0, 1)] * 2), "k stands in it twice"),
        (header(text(b"general.alignment") + struct.pack("<II", 4, 0)), "general.alignment is 0"),
        (header(text(b"general.alignment") + struct.pack("<I", 8) + text(b"x")), "general.alignment is 'x'"),
        (header(text(b"t") + struct.pack("<I", 9) + bytes(40), n_tensors=1, n_fields=0), "t has 9 dimensions"),
        (header(text(b"t") + struct.pack("<IQIQ", 1, 32, 77, 0), n_tensors=1, n_fields=0), "unknown tensor type 77"),
        (header(text(b"t") + struct.pack("<IQIQ", 1, 33, 2, 0), n_tensors=1, n_fields=0), "don't divide into Q4_0"),
        (header(text(b"t") + struct.pack("<IQIQ", 1, 2**62, 0, 0), n_tensors=1, n_fields=0), "cut off or damaged"),
        (header(text(b"t") + struct.pack("<IQIQ", 1, 0, 0, 7), n_tensors=1, n_fields=0), "cut off or damaged"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_gguf(path)


def test_a_header_that_never_ends_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "huge.gguf"
    path.write_bytes(header(text(b"k") + struct.pack("<IIQ", 9, 0, MAX_HEADER_BYTES + 1)))
    with path.open("r+b") as file:
        file.truncate(MAX_HEADER_BYTES + 1000)  # sparse
    with pytest.raises(ConfigError, match="the length of k is"):
        read_gguf(path)


U32, U64 = struct.Struct("<I").pack, struct.Struct("<Q").pack


def crowded(kind: str, n_bytes: int) -> bytes:
    """A header of this size that holds as many small things of a kind as there is room for."""
    if kind == "strings":
        n_items = n_bytes // len(text(b"ab"))
        return header(text(b"k") + U32(9) + U32(8) + U64(n_items) + text(b"ab") * n_items)
    if kind == "fields":
        return header(*(text(b"%06x" % n) + U32(0) + b"\1" for n in range(n_bytes // 19)))
    tensors = [text(b"%08x" % n) + U32(0) + U32(0) + U64(0) for n in range(n_bytes // 32)]
    return header(*tensors, n_tensors=len(tensors), n_fields=0) + bytes(64)


@pytest.mark.parametrize("kind", ["strings", "fields", "tensors"])
def test_a_header_of_many_small_things_is_given_up_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "crowded.gguf"
    path.write_bytes(crowded(kind, 2 << 20))
    read_gguf(path)
    monkeypatch.setattr("appliance.models.gguf_file.MAX_MEMORY_BYTES", 4 << 20)
    tracemalloc.start()
    with pytest.raises(ConfigError, match="its header takes more than 4 MiB of memory"):
        read_gguf(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 << 20


def test_a_text_that_is_no_text_of_a_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.gguf"
    path.write_bytes(header(text(b"k") + U32(8) + text(bytes(MAX_TEXT_BYTES + 1))))
    with pytest.raises(ConfigError, match="k is 8388609 bytes long, more than 8388608"):
        read_gguf(path)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_gguf(tmp_path / "none.gguf")
