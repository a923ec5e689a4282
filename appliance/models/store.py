"""Published models on disk: ``<name>/<first 12 of sha256>/model.gguf`` with ``record.json`` beside it.

The record holds what the gateway needs to know without opening the model. Files appear whole or not at all, and
publishing links them, so that a file that was built takes its room once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from appliance import logs
from appliance.errors import ConfigError
from appliance.files import PART, flush, rename, sha256_of, write_atomically
from appliance.hardware.shape import ModelShape
from appliance.models.beside import Companion, companions, of_adapter, of_template
from appliance.models.gguf_file import read_gguf
from appliance.models.gguf_header import GGUFHeader, header_of, read_header
from appliance.models.lock import SHORT_SHA, Entry, Gguf, Version
from appliance.models.report import Advance
from appliance.models.shape import shape_of

log = logging.getLogger(__name__)

RECORD_SCHEMA = 5
_FOLDER_NAME = re.compile(rf"[0-9a-f]{{{SHORT_SHA}}}")


class Record(msgspec.Struct, frozen=True):
    """``mtime_ns`` and ``inode`` tell at load whether the file is still the one whose hash was checked.

    ``inode`` 0 is any: a file in an image, which each machine unpacks to another one.
    """

    schema: int
    name: str
    gguf_sha256: str
    gguf_bytes: int
    mtime_ns: int
    inode: int
    quantization: str
    header: GGUFHeader
    shape: ModelShape = ModelShape()

    @property
    def version(self) -> str:
        """As it stands in ``NAME@VERSION``."""
        return self.gguf_sha256[:SHORT_SHA]


class StoredAdapter(msgspec.Struct, frozen=True):
    """An adapter's file beside its model's; its bytes are checked when it is loaded."""

    name: str
    path: Path
    sha256: str
    n_bytes: int


class StoredModel(msgspec.Struct, frozen=True):
    """A model that can be served, with those of its adapters that can be.

    ``template_override``: an operator's chat template, if there is one.
    """

    path: Path
    record: Record
    note: str = ""
    template_override: str | None = None
    adapters: tuple[StoredAdapter, ...] = ()

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def chat_template(self) -> str | None:
        """The one in force; None: there is none."""
        return self.record.header.chat_template if self.template_override is None else self.template_override


class ModelStore:
    """Two folders that are searched in order: one that came with the image, if there is one, and the writable one."""

    def __init__(self, root: Path, image_root: Path | None = None) -> None:
        self._root = root
        self._roots = (root,) if image_root is None else (image_root, root)
        # What was hashed since the start: where records can't be written, they still hold as long as this lives.
        self._checked: dict[Path, Record] = {}

    def find(self, entry: Entry, preferred_sha256: str | None = None) -> StoredModel | None:
        """The published version of this hash or, without one, the newest whose bytes are those of the lock.

        Raises:
            ConfigError: a published file has other bytes than the lock says.
        """
        versions = [v for v in entry.versions if v.gguf is not None and v.gguf.sha256 == preferred_sha256]
        for version in (*versions, *entry.versions):
            if (stored := self.find_version(entry, version)) is not None:
                return stored
        return None

    def find_version(self, entry: Entry, version: Version) -> StoredModel | None:
        """As :meth:`find`, for one version; None also if it was never built."""
        return self._find(entry, version, None)

    def verify(self, entry: Entry, version: Version, advance: Advance) -> StoredModel | None:
        """As :meth:`find_version`, but all its bytes are read and hashed, whatever its record says."""
        stored = self._find(entry, version, advance)
        for companion in companions(version):
            path = self.find_beside(entry, version, companion)
            if path is not None:
                _check_companion(path, companion, sha256_of(path))
        return stored

    def publish(self, entry: Entry, version: Version, source: Path, *, found: Gguf | None = None) -> StoredModel:
        """Puts a model file and its record where it is served from. ``found``: what :func:`describe` said of it.

        Raises:
            ConfigError: ``source`` has other bytes than the lock says, or it can't be written; nothing is published.
        """
        if version.gguf is None:
            raise ValueError(f"{entry.name}@{version.short} says nothing of the file that would be published")
        found = found or describe(source)
        if found.sha256 != version.gguf.sha256:
            raise ConfigError(
                f"{entry.name}: {source.name} has sha256 {found.sha256}, models.lock says {version.gguf.sha256}"
            )
        if found.chat_template_sha256 != version.gguf.chat_template_sha256:
            raise ConfigError(
                f"{entry.name}: its chat template has sha256 {found.chat_template_sha256}, "
                f"models.lock says {version.gguf.chat_template_sha256}"
            )
        contents = _read_contents(source)
        folder = _folder(self._root, entry.name, version.gguf)
        _place(source, folder / "model.gguf")
        stored = _write_record(folder, entry, version, version.gguf, contents)
        return self._with_companions(stored, entry, version)

    def is_published(self, entry: Entry, version: Version) -> bool:
        """Whether a version's file is there, with or without what belongs beside it; nothing is checked."""
        gguf = version.gguf
        return gguf is not None and any((_folder(r, entry.name, gguf) / "record.json").exists() for r in self._roots)

    def has_companions(self, entry: Entry, version: Version) -> bool:
        """Whether all that belongs beside a version's file is published."""
        paths = [self.find_beside(entry, version, companion) for companion in companions(version)]
        return None not in paths and all(adapter.gguf is not None for adapter in version.adapters)

    def find_beside(self, entry: Entry, version: Version, companion: Companion) -> Path | None:
        """The published file of a companion, or None; its bytes aren't checked."""
        if version.gguf is None:
            return None
        paths = (_folder(root, entry.name, version.gguf) / companion.path for root in self._roots)
        return next((path for path in paths if path.is_file()), None)

    def publish_beside(self, entry: Entry, version: Version, companion: Companion, source: Path | bytes) -> None:
        """Puts a file, or these bytes, beside a model's. Raises ConfigError if the lock says other bytes."""
        if version.gguf is None:
            raise ValueError(f"{entry.name}@{version.short} says nothing of the file that would be published")
        digest = sha256_of(source) if isinstance(source, Path) else hashlib.sha256(source).hexdigest()
        if digest != companion.sha256:
            raise ConfigError(
                f"{entry.name}: {companion.what} has sha256 {digest}, models.lock says {companion.sha256}; "
                "it is not published"
            )
        _place(source, _folder(self._root, entry.name, version.gguf) / companion.path)

    def unpublish(self, name: str, sha256: str) -> None:
        """Deletes a published file. Raises ConfigError if it can't be."""
        self.delete(self._root / name / sha256[:SHORT_SHA])

    @staticmethod
    def delete(folder: Path) -> None:
        """Deletes one of :meth:`folders`. Raises ConfigError if it can't be."""
        try:
            # Without its record it isn't found any more, also if the rest fails.
            (folder / "record.json").unlink(missing_ok=True)
            shutil.rmtree(folder)
            if not any(folder.parent.iterdir()):
                folder.parent.rmdir()
        except OSError as error:
            raise ConfigError(f"{folder} can't be deleted: {error.strerror}") from None

    def folders(self) -> Iterator[Path]:
        """The folders of all files in the writable store, whether the lock names them or not; no others."""
        for folder in sorted(self._root.glob("*/*")):
            is_ours = _FOLDER_NAME.fullmatch(folder.name) and not folder.parent.name.startswith(".")
            if is_ours and folder.is_dir() and not folder.is_symlink():
                yield folder

    def _find(self, entry: Entry, version: Version, advance: Advance | None) -> StoredModel | None:
        if version.gguf is None:
            return None
        for root in self._roots:
            folder = _folder(root, entry.name, version.gguf)
            if (folder / "record.json").exists():
                stored = _check(folder, entry, version, version.gguf, self._checked, advance)
                return self._with_companions(stored, entry, version)
        return None

    def _with_companions(self, stored: StoredModel, entry: Entry, version: Version) -> StoredModel:
        adapters = tuple(
            StoredAdapter(adapter.name, path, adapter.gguf.sha256, adapter.gguf.size_bytes)
            for adapter in version.adapters
            if adapter.gguf is not None and (path := self.find_beside(entry, version, of_adapter(adapter))) is not None
        )
        return msgspec.structs.replace(stored, template_override=self._template(entry, version), adapters=adapters)

    def _template(self, entry: Entry, version: Version) -> str | None:
        if version.chat_template is None:
            return None
        companion = of_template(version.chat_template)
        path = self.find_beside(entry, version, companion)
        if path is None:
            raise ConfigError(
                f"{entry.name}@{version.short}: its chat template {version.chat_template.path} was pinned and not "
                f"published yet; run `appliance models build {entry.name}@{version.short}`"
            )
        content = path.read_bytes()
        _check_companion(path, companion, hashlib.sha256(content).hexdigest())
        return content.decode("utf-8", "replace")


def describe(path: Path, advance: Advance | None = None) -> Gguf:
    """What a lock says of a model file. Raises ConfigError if it is no readable GGUF file."""
    header = read_header(path)
    return Gguf(
        sha256=sha256_of(path, advance),
        size_bytes=path.stat().st_size,
        chat_template_sha256=hashlib.sha256((header.chat_template or "").encode()).hexdigest(),
        n_ctx_train=header.n_ctx_train,
        n_params=header.n_params,
    )


def _folder(root: Path, name: str, gguf: Gguf) -> Path:
    return root / name / gguf.sha256[:SHORT_SHA]


def _check_companion(path: Path, companion: Companion, digest: str) -> None:
    if digest != companion.sha256:
        raise ConfigError(
            f"{path}, {companion.what}, has sha256 {digest}, models.lock says {companion.sha256}; "
            "it is not used. Delete it and build the model again"
        )


def _check(
    folder: Path,
    entry: Entry,
    version: Version,
    gguf: Gguf,
    checked: dict[Path, Record],
    advance: Advance | None = None,
) -> StoredModel:
    """Reads the file if it isn't the one whose hash was checked, or to be told how far it is (``advance``)."""
    path = folder / "model.gguf"
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; delete its folder and fetch the model again") from None
    record = checked.get(folder)
    if record is None or not _is_of(record, status):
        record = _read_record(folder / "record.json")
    is_known = record is not None and _is_of(record, status)
    if record is not None and is_known and advance is None:
        return StoredModel(path, record, entry.note)
    # Touched since it was published, copied, restored from a backup, or of another release: the bytes decide.
    digest = sha256_of(path, advance)
    if digest != gguf.sha256:
        raise ConfigError(
            f"{path} has sha256 {digest}, models.lock says {gguf.sha256}; "
            "it is not served. Delete its folder and fetch the model again"
        )
    if record is not None and is_known:
        return StoredModel(path, record, entry.note)
    contents = (record.header, record.shape) if record is not None else _read_contents(path)
    stored = _write_record(folder, entry, version, gguf, contents)
    checked[folder] = stored.record
    return stored


def _is_of(record: Record, status: os.stat_result) -> bool:
    """Whether the file is the one that the record tells of."""
    is_same = (record.gguf_bytes, record.mtime_ns) == (status.st_size, status.st_mtime_ns)
    return is_same and record.inode in (0, status.st_ino)


def _write_record(
    folder: Path, entry: Entry, version: Version, gguf: Gguf, contents: tuple[GGUFHeader, ModelShape]
) -> StoredModel:
    path = folder / "model.gguf"
    header, shape = contents
    status = path.stat()
    record = Record(
        schema=RECORD_SCHEMA,
        name=entry.name,
        gguf_sha256=gguf.sha256,
        gguf_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        inode=status.st_ino,
        quantization=version.quantization,
        header=header,
        shape=shape,
    )
    try:
        write_atomically(folder / "record.json", msgspec.json.format(msgspec.json.encode(record), indent=1))
    except ConfigError as error:
        # A store that is mounted read-only: its files are as good, and are hashed again at the next start.
        log.warning(logs.event("record_not_written", path=folder, reason=error.message))
    return StoredModel(path, record, entry.note)


def _read_contents(path: Path) -> tuple[GGUFHeader, ModelShape]:
    file = read_gguf(path)
    return header_of(file, path), shape_of(file)


def _read_record(path: Path) -> Record | None:
    """The record, or None if it is damaged or of another release."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None
    return record if record.schema == RECORD_SCHEMA else None


def _place(source: Path | bytes, path: Path) -> None:
    """Raises ConfigError if it can't be written."""
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            return write_atomically(path, source)
        _link_or_copy(source, part)
        rename(part, path)
    except OSError as error:
        raise ConfigError(f"{path.parent} can't be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)  # the file, if it is a link
    except OSError:  # another file system, or one without links
        with source.open("rb") as content, target.open("wb") as out:
            shutil.copyfileobj(content, out, 1 << 20)
            flush(out)
