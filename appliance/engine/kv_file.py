"""A computed prefix as a file: its tokens, and what the KV cache held for them.

    magic and version | length of the header | header (msgpack) | its digest | payload | digest of the payload

Whoever reads it believes nothing of it: a file that isn't what is looked for, to the last byte, is no file.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import msgspec

MAGIC = b"APPLKV\x00\x01"
SUFFIX = ".kv"
# Hashed and written in one go, before others have their turn.
CHUNK_BYTES = 1 << 18
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 16
# Four bytes a token, and some names: more is no header.
_MAX_HEADER_BYTES = 64 << 20

# truncated: shorter than it says; damaged: its bytes are not those that were written; foreign: whole, but of another
# model, engine build, KV type or scope; refused: llama.cpp would not have it; gone: somebody has removed it; unread:
# the disk doesn't give it.
Reason = Literal["truncated", "damaged", "foreign", "refused", "gone", "unread"]


class Rejected(Exception):
    """A file that can't be used."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason


class KVKey(msgspec.Struct, frozen=True):
    """What must be the same for a payload to mean anything: the model's file, the engine, the KV cache's types."""

    model_sha256: str
    build: str
    type_k: str
    type_v: str

    @property
    def folder(self) -> str:
        return _name(MAGIC + msgspec.msgpack.encode(self))


class Prefix(msgspec.Struct, frozen=True):
    """Tokens, who may use what was computed for them, and with which adapter ("" is none): ``tokens`` as int32."""

    adapter: str
    scope: str
    tokens: bytes

    @classmethod
    def of(cls, adapter: str, scope: str, tokens: Sequence[int]) -> Prefix:
        return cls(adapter, scope, array("i", tokens).tobytes())

    @property
    def n_tokens(self) -> int:
        return len(self.tokens) // 4

    def token_list(self) -> list[int]:
        return array("i", self.tokens).tolist()

    @property
    def file_name(self) -> str:
        return _name(msgspec.msgpack.encode(self)) + SUFFIX


class Header(msgspec.Struct, frozen=True):
    """``n_bytes`` is the payload's length."""

    key: KVKey
    prefix: Prefix
    n_bytes: Annotated[int, msgspec.Meta(ge=1)]

    @property
    def file_bytes(self) -> int:
        """The length of the whole file."""
        return len(self.encode()) + self.n_bytes + _DIGEST_BYTES

    def encode(self) -> bytes:
        """All that stands before the payload."""
        header = msgspec.msgpack.encode(self)
        begin = MAGIC + _LENGTH.pack(len(header)) + header
        return begin + _digest(begin)


def write(file: BinaryIO, header: Header, payload: memoryview, between: Callable[[], None] = lambda: None) -> None:
    """``between`` is called after each piece. Raises OSError."""
    begin = header.encode()
    file.write(begin)
    # The payload's digest begins with the header, so that the two belong together.
    digest = hashlib.blake2b(begin, digest_size=_DIGEST_BYTES)
    for piece in _pieces(payload):
        digest.update(piece)
        file.write(piece)
        between()
    file.write(digest.digest())


def read_header(path: Path, key: KVKey) -> Header:
    """Raises Rejected if the file is none of ``key``'s, or not whole."""
    with _open(path) as file:
        return _read_header(file, key)[0]


def read(path: Path, wanted: Header) -> mmap.mmap:
    """The payload, in memory of its own. Raises Rejected if it isn't exactly what is ``wanted``."""
    with _open(path) as file:
        found, begin = _read_header(file, wanted.key)
        if found.prefix != wanted.prefix:
            raise Rejected("foreign", "it holds other tokens, or those of another scope or adapter")
        payload = mmap.mmap(-1, found.n_bytes)
        digest = hashlib.blake2b(begin, digest_size=_DIGEST_BYTES)
        with memoryview(payload) as view:
            for piece in _pieces(view):
                _fill(file, piece)
                digest.update(piece)
        if digest.digest() != _exactly(file, _DIGEST_BYTES):
            raise Rejected("damaged", "its payload is not what was written")
    return payload


def _read_header(file: BinaryIO, key: KVKey) -> tuple[Header, bytes]:
    """And all that stands before the payload."""
    begin = _exactly(file, len(MAGIC) + _LENGTH.size)
    if not begin.startswith(MAGIC):
        raise Rejected("damaged", "it does not begin as such a file does")
    (n_bytes,) = _LENGTH.unpack_from(begin, len(MAGIC))
    if n_bytes > _MAX_HEADER_BYTES:
        raise Rejected("damaged", "its header has no end")
    begin += _exactly(file, n_bytes)
    digest = _exactly(file, _DIGEST_BYTES)
    if digest != _digest(begin):
        raise Rejected("damaged", "its header is not what was written")
    try:
        header = msgspec.msgpack.decode(begin[len(MAGIC) + _LENGTH.size :], type=Header)
    except msgspec.DecodeError as error:
        raise Rejected("damaged", f"its header can't be read: {error}") from None
    if header.key != key:
        others = [name for name in KVKey.__struct_fields__ if getattr(header.key, name) != getattr(key, name)]
        raise Rejected("foreign", f"it has another {' and '.join(others)}")
    n_file = os.fstat(file.fileno()).st_size
    n_wanted = len(begin) + 2 * _DIGEST_BYTES + header.n_bytes
    if n_file != n_wanted:
        reason: Reason = "truncated" if n_file < n_wanted else "damaged"
        raise Rejected(reason, f"it has {n_file} bytes, not {n_wanted}")
    return header, begin + digest


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        raise Rejected("gone", "it was removed") from None
    except OSError as error:
        raise Rejected("unread", f"it can't be opened: {error.strerror}") from None


def _exactly(file: BinaryIO, n_bytes: int) -> bytes:
    data = bytearray(n_bytes)
    _fill(file, memoryview(data))
    return bytes(data)


def _fill(file: BinaryIO, target: memoryview) -> None:
    n_read = 0
    while n_read < len(target):
        try:
            n_more = file.readinto(target[n_read:])  # type: ignore[attr-defined]
        except OSError as error:
            raise Rejected("unread", f"it can't be read: {error.strerror}") from None
        if not n_more:
            raise Rejected("truncated", "it ends too early")
        n_read += n_more


def _pieces(data: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _name(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
