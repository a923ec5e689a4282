"""The response cache's file: how it is opened, made, and set aside when it is damaged."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from pathlib import Path

from appliance import logs
from appliance.cache.entries import transaction

log = logging.getLogger(__name__)

# Says whose file it is: "LLMc" in the header's application id, and which tables there are in its user version.
APPLICATION_ID = 0x4C4C4D63
FORMAT = 1

_ENTRIES = {
    "id": int,
    "key": bytes,
    "model": str,
    "version": str,
    "owner": str,
    "created_s": float,
    "used": int,
    "n_tokens": int,
    "checksum": int,
}
_ANSWERS = {"id": int, "body": bytes}
_COLUMNS = {*(f"entries.{name}" for name in _ENTRIES), *(f"answers.{name}" for name in _ANSWERS)}

_SIDE_FILES = ("-wal", "-shm")
_DAMAGED = ".damaged"
# What SQLite answers when what it reads is no database of ours. Statements of ours fail as SQLITE_ERROR only where a
# table is missing, as SQLITE_CONSTRAINT only where tables and indexes contradict each other.
_DAMAGE = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_CONSTRAINT,
}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}

# A file by its device and its number there: what stands at a path may be another one by now.
FileId = tuple[int, int]


class ForeignFile(Exception):
    """A database that is no response cache: somebody else's, which must be left as it is."""


class DamagedFile(Exception):
    """A response cache of another format, or one that is found to be damaged."""


def is_damage(error: Exception) -> bool:
    """Whether an error says that the file is damaged, and not that the machine can't read or write it now."""
    if isinstance(error, DamagedFile | UnicodeDecodeError):  # SQLite quotes what it can't understand
        return True
    code = _code(error)
    return code & 0xFF in _DAMAGE or code == sqlite3.SQLITE_IOERR_SHORT_READ


def is_busy(error: Exception) -> bool:
    """Whether another process holds the file for the moment."""
    return _code(error) & 0xFF in _BUSY


def make_file(path: Path) -> None:
    """Makes an empty file, for nobody but the operator, unless there is one. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # A file that exists must not even be opened here: to close it would drop the locks on it of this whole process.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def open_for_reading(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """A connection that writes nothing, for one thread at a time. Raises sqlite3.Error."""
    connection = _connect(path, busy_timeout_s)
    connection.execute("PRAGMA query_only = ON")
    return connection


def open_for_writing(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """A connection for one thread at a time; tables are made if there are none.

    Raises:
        ForeignFile, DamagedFile: nothing has been changed.
        sqlite3.Error: it can't be read or written, or it is damaged.
    """
    connection = _connect(path, busy_timeout_s)
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def set_aside(path: Path, file: FileId | None) -> Path | None:
    """Renames a damaged file, in place of one that was set aside before; where it is now.

    None: another process has done so. ``file`` is the one that was found to be damaged. Raises OSError.
    """
    if file is None or file_at(path) != file:
        return None
    # The database comes last: who finds none begins a new one, and its side files must stay where they are.
    for suffix in (*_SIDE_FILES, ""):
        aside = path.with_name(path.name + _DAMAGED + suffix)
        with contextlib.suppress(FileNotFoundError):
            aside.unlink()
        with contextlib.suppress(FileNotFoundError):
            os.rename(path.with_name(path.name + suffix), aside)
    return path.with_name(path.name + _DAMAGED)


def file_at(path: Path) -> FileId | None:
    """The file that stands at a path; None if none can be seen there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", None) or 0


def _connect(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",  # even who only reads a WAL writes where it reads; it makes no file
        uri=True,
        timeout=busy_timeout_s,
        isolation_level=None,
        check_same_thread=False,
    )
    # A damaged file may hold any bytes for a name.
    connection.text_factory = lambda data: data.decode(errors="replace")
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    columns = {name for (name,) in connection.execute(_ALL_COLUMNS)}
    is_new = not columns and application_id in (0, APPLICATION_ID)
    if not is_new:
        if application_id != APPLICATION_ID and not columns >= _COLUMNS:
            raise ForeignFile
        if (application_id, found) != (APPLICATION_ID, FORMAT):
            raise DamagedFile(f"application id {application_id:#x}, format {found}; want {APPLICATION_ID:#x}, {FORMAT}")
        if not columns >= _COLUMNS:
            raise DamagedFile("its tables are others")
    connection.execute("PRAGMA journal_mode = WAL")
    # A crash of the machine may lose the latest answers, never the file.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA journal_size_limit = 16777216")
    # What is removed is overwritten: it was said in confidence.
    connection.execute("PRAGMA secure_delete = ON")
    if is_new:
        _make_tables(connection)


_ALL_COLUMNS = (
    "SELECT entry.name || '.' || part.name FROM sqlite_master AS entry, pragma_table_info(entry.name) AS part"
)


def _make_tables(connection: sqlite3.Connection) -> None:
    """Answers stand by themselves: what is asked of all entries reads none of them."""
    from sqlite_utils import Database  # takes 0.1 s, and most starts find the tables

    begun_at = time.monotonic()
    with transaction(connection):
        database = Database(connection, execute_plugins=False)
        if "entries" not in database.table_names():  # another process may have been first
            entries = database.table("entries").create(_ENTRIES, pk="id", not_null=set(_ENTRIES) - {"id"})
            entries.create_index(["key"], unique=True)
            entries.create_index(["used"])
            database.table("answers").create(_ANSWERS, pk="id", not_null={"body"})
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
    log.debug(logs.event("response_cache_made", took_s=time.monotonic() - begun_at))
