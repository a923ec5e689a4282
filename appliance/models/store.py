"""Published models on disk: ``<name>/<first 12 of sha256>/model.gguf`` with ``record.json`` beside it.

The record holds what the gateway needs to know without opening the model. Files appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from pathlib import Path
from typing import BinaryIO

import msgspec

from appliance import logs
from appliance.errors import ConfigError
from appliance.models.gguf_header import GGUFHeader, read_header
from appliance.models.lock import Entry, Version

log = logging.getLogger(__name__)

RECORD_SCHEMA = 2
CHUNK_BYTES = 1 << 20


class Record(msgspec.Struct, frozen=True):
    """``mtime_ns`` and ``inode`` tell at load whether the file is still the one whose hash was checked."""

    schema: int
    name: str
    gguf_sha256: str
    gguf_bytes: int
    mtime_ns: int
    inode: int
    quantization: str
    header: GGUFHeader


class StoredModel(msgspec.Struct, frozen=True):
    """A model that can be served."""

    path: Path
    record: Record
    note: str = ""

    @property
    def name(self) -> str:
        return self.record.name


class ModelStore:
    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, entry: Entry) -> StoredModel | None:
        """The newest published version of a model whose bytes are those of the lock, if there is one.

        Raises:
            ConfigError: a published file has other bytes than the lock says.
        """
        for version in entry.versions:
            if (stored := self.find_version(entry, version)) is not None:
                return stored
        return None

    def find_version(self, entry: Entry, version: Version) -> StoredModel | None:
        """As :meth:`find`, for one version."""
        folder = self._folder(entry, version)
        return self._check(folder, entry, version) if (folder / "record.json").exists() else None

    def publish(self, entry: Entry, version: Version, content: BinaryIO) -> StoredModel:
        """Writes a model file and its record.

        Raises:
            ConfigError: ``content`` has other bytes than the lock says, or can't be written; nothing is published.
        """
        folder = self._folder(entry, version)
        part = folder / f"model.gguf.{os.getpid()}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as out:
                digest = _copy_hashed(content, out)
                _flush(out)
            if digest != version.gguf_sha256:
                raise ConfigError(
                    f"{entry.name}: {version.source.member} has sha256 {digest}, models.lock says {version.gguf_sha256}"
                )
            header = read_header(part)
            template_sha256 = hashlib.sha256((header.chat_template or "").encode()).hexdigest()
            if template_sha256 != version.chat_template_sha256:
                raise ConfigError(
                    f"{entry.name}: its chat template has sha256 {template_sha256}, "
                    f"models.lock says {version.chat_template_sha256}"
                )
            os.replace(part, folder / "model.gguf")
            return self._write_record(folder, entry, version, header)
        except OSError as error:
            raise ConfigError(f"{folder} can't be written: {error.strerror}") from None
        finally:
            part.unlink(missing_ok=True)

    def _check(self, folder: Path, entry: Entry, version: Version) -> StoredModel:
        path = folder / "model.gguf"
        try:
            status = path.stat()
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; delete its folder and fetch the model again") from None
        record = _read_record(folder / "record.json")
        stamp = (status.st_size, status.st_mtime_ns, status.st_ino)
        if record is not None and stamp == (record.gguf_bytes, record.mtime_ns, record.inode):
            return StoredModel(path, record, entry.note)
        # Touched since it was published, copied, restored from a backup, or of another release: the bytes decide.
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != version.gguf_sha256:
            raise ConfigError(
                f"{path} has sha256 {digest}, models.lock says {version.gguf_sha256}; "
                "it is not served. Delete its folder and fetch the model again"
            )
        header = record.header if record is not None else read_header(path)
        return self._write_record(folder, entry, version, header)

    def _write_record(self, folder: Path, entry: Entry, version: Version, header: GGUFHeader) -> StoredModel:
        path = folder / "model.gguf"
        status = path.stat()
        record = Record(
            schema=RECORD_SCHEMA,
            name=entry.name,
            gguf_sha256=version.gguf_sha256,
            gguf_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            inode=status.st_ino,
            quantization=version.quantization,
            header=header,
        )
        part = folder / f"record.json.{os.getpid()}.part"
        try:
            with part.open("wb") as out:
                out.write(msgspec.json.format(msgspec.json.encode(record), indent=1))
                _flush(out)
            os.replace(part, folder / "record.json")
        except OSError as error:
            # A store that is mounted read-only: its files are as good, and are hashed again at the next start.
            log.warning(logs.event("record_not_written", path=folder, reason=error.strerror))
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        return StoredModel(path, record, entry.note)

    def _folder(self, entry: Entry, version: Version) -> Path:
        return self._root / entry.name / version.gguf_sha256[:12]


def _read_record(path: Path) -> Record | None:
    """The record, or None if it is damaged or of another release."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None
    return record if record.schema == RECORD_SCHEMA else None


def _flush(file: BinaryIO) -> None:
    """To the disk itself: a file must be whole before it gets its name."""
    file.flush()
    os.fsync(file.fileno())


def _copy_hashed(source: BinaryIO, target: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()
