"""Reads the header of a GGUF file that nobody vouches for: every count and length is checked against the file first.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
import sys
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from appliance.errors import ConfigError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# The largest known ones, with vocabularies of 260,000 tokens and their merges, take 16 MB.
MAX_HEADER_BYTES = 64 << 20
# What is made of a header may take this much: as objects, small strings, fields and tensors are many times larger than
# in the file. The largest known vocabularies take a quarter of it.
MAX_MEMORY_BYTES = 192 << 20
MAX_TEXT_BYTES = 8 << 20
MAX_KEY_BYTES = 65_535
MAX_DIMS = 4
DEFAULT_ALIGNMENT = 32

_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32, _U64 = _SCALARS[4], _SCALARS[10]
# What the smallest item of its kind takes in the file: a count that asks for more than the rest of it is refused.
_LEAST_FIELD_BYTES = 8 + 4 + 1
_LEAST_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8
# About what each takes in memory, besides its texts and numbers.
_ITEM_BYTES, _FIELD_BYTES, _TENSOR_BYTES = 8, 200, 600


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """``shape`` has the fastest-running dimension first, as in the file; ``offset`` counts from its beginning."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset: int
    n_bytes: int

    @property
    def n_elements(self) -> int:
        n_elements = 1
        for size in self.shape:
            n_elements *= size
        return n_elements


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """Where a file's tensors lie, and its metadata: strings, numbers, lists of strings, arrays of numbers."""

    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]


def read_gguf(path: Path) -> GGUFFile:
    """Raises ConfigError if the file is no whole, consistent GGUF file; reads its header only."""
    try:
        with path.open("rb") as file:
            return _read(_Cursor(file, path.stat().st_size))
    except _MalformedError as error:
        raise ConfigError(f"{path} is no readable GGUF file: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


class _MalformedError(Exception):
    pass


class _Cursor:
    """Reads on from the beginning of a file, never beyond its end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.size = size
        self.position = 0
        self._n_memory_left = MAX_MEMORY_BYTES

    def charge(self, n_bytes: int) -> None:
        """Counts what stays in memory of what was read."""
        self._n_memory_left -= n_bytes
        if self._n_memory_left < 0:
            raise _MalformedError(f"its header takes more than {MAX_MEMORY_BYTES >> 20} MiB of memory")

    @property
    def n_left(self) -> int:
        return min(self.size, MAX_HEADER_BYTES) - self.position

    def read(self, n_bytes: int, what: str) -> bytes:
        if n_bytes > self.n_left:
            raise _MalformedError(f"{what} of {n_bytes} bytes at byte {self.position} reaches beyond the header")
        data = self._file.read(n_bytes)
        if len(data) != n_bytes:
            raise _MalformedError(f"{what} at byte {self.position} is cut off")
        self.position += n_bytes
        return data

    def number(self, kind: struct.Struct, what: str) -> Any:
        return kind.unpack(self.read(kind.size, what))[0]

    def count(self, least_bytes: int, what: str) -> int:
        n: int = self.number(_U64, what)
        if n * least_bytes > self.n_left:
            raise _MalformedError(f"{what} is {n}, more than the file has room for")
        return n

    def text(self, what: str, max_bytes: int = MAX_TEXT_BYTES) -> str:
        n_bytes = self.count(1, f"the length of {what}")
        if n_bytes > max_bytes:
            raise _MalformedError(f"{what} is {n_bytes} bytes long, more than {max_bytes}")
        # Tokens may be pieces of characters.
        text = self.read(n_bytes, what).decode("utf-8", "replace")
        self.charge(sys.getsizeof(text) + _ITEM_BYTES)
        return text


def _read(cursor: _Cursor) -> GGUFFile:
    if cursor.size < len(MAGIC) or cursor.read(len(MAGIC), "the magic number") != MAGIC:
        raise _MalformedError("it doesn't begin with GGUF")
    version = cursor.number(_U32, "the version")
    if version not in VERSIONS:
        raise _MalformedError(f"its version is {version}, known are {VERSIONS[0]} and {VERSIONS[-1]}")
    n_tensors = cursor.count(_LEAST_TENSOR_BYTES, "the number of tensors")
    n_fields = cursor.count(_LEAST_FIELD_BYTES, "the number of metadata fields")
    metadata: dict[str, Any] = {}
    for _ in range(n_fields):
        cursor.charge(_FIELD_BYTES)
        key = cursor.text("a metadata key", MAX_KEY_BYTES)
        if key in metadata:
            raise _MalformedError(f"{key} stands in it twice")
        metadata[key] = _value(cursor, cursor.number(_U32, f"the type of {key}"), key)
    raw_tensors = [_tensor(cursor) for _ in range(n_tensors)]
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise _MalformedError(f"general.alignment is {alignment!r}, want a power of two")
    data_start = -(-cursor.position // alignment) * alignment
    tensors = tuple(_placed(raw, data_start, alignment, cursor.size) for raw in raw_tensors)
    names = [tensor.name for tensor in tensors]
    if len(set(names)) != len(names):
        raise _MalformedError("two of its tensors have the same name")
    return GGUFFile(metadata, tensors)


def _value(cursor: _Cursor, kind: int, key: str) -> Any:
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind], key)
    if kind == _STRING:
        return cursor.text(key)
    if kind != _ARRAY:
        raise _MalformedError(f"{key} has the unknown type {kind}")
    item_kind = cursor.number(_U32, f"the type of {key}'s items")
    if item_kind == _STRING:
        return [cursor.text(key) for _ in range(cursor.count(8, f"the length of {key}"))]
    scalar = _SCALARS.get(item_kind)
    if scalar is None:
        raise _MalformedError(f"{key} has items of the type {item_kind}, which may not stand in an array")
    n_items = cursor.count(scalar.size, f"the length of {key}")
    cursor.charge(n_items * scalar.size)
    # As an array it takes no more room than in the file.
    numbers = array(scalar.format[-1].replace("?", "B"), cursor.read(n_items * scalar.size, key))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


@dataclass(frozen=True, slots=True)
class _RawTensor:
    name: str
    shape: tuple[int, ...]
    type_number: int
    offset: int


def _tensor(cursor: _Cursor) -> _RawTensor:
    cursor.charge(_TENSOR_BYTES)
    name = cursor.text("a tensor's name", MAX_KEY_BYTES)
    n_dims = cursor.number(_U32, f"the dimensions of {name}")
    if n_dims > MAX_DIMS:
        raise _MalformedError(f"{name} has {n_dims} dimensions, more than {MAX_DIMS}")
    shape = tuple(cursor.number(_U64, f"the shape of {name}") for _ in range(n_dims))
    type_number = cursor.number(_U32, f"the type of {name}")
    return _RawTensor(name, shape, type_number, cursor.number(_U64, f"the offset of {name}"))


def _placed(raw: _RawTensor, data_start: int, alignment: int, file_size: int) -> TensorInfo:
    # gguf imports slowly and is wanted at publication only.
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        kind = GGMLQuantizationType(raw.type_number)
    except ValueError:
        raise _MalformedError(f"{raw.name} has the unknown tensor type {raw.type_number}") from None
    block_elements, block_bytes = GGML_QUANT_SIZES[kind]
    tensor = TensorInfo(raw.name, raw.shape, kind.name, data_start + raw.offset, 0)
    if raw.shape and raw.shape[0] % block_elements:
        raise _MalformedError(f"{raw.name}: rows of {raw.shape[0]} don't divide into {kind.name}'s {block_elements}")
    n_bytes = tensor.n_elements // block_elements * block_bytes
    if raw.offset % alignment or tensor.offset + n_bytes > file_size:
        raise _MalformedError(
            f"{raw.name} takes {n_bytes} bytes from {tensor.offset}, in a file of {file_size}: it is cut off or damaged"
        )
    return TensorInfo(raw.name, raw.shape, kind.name, tensor.offset, n_bytes)
