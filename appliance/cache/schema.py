"""The response cache's file: how it is opened, made, and set aside when it is damaged."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from pathlib import Path

from appliance import logs

log = logging.getLogger(__name__)

# Says whose file it is: "LLMc" in the header's application id, and which tables there are in its user version.
APPLICATION_ID = 0x4C4C4D63
FORMAT = 1

_SIDE_FILES = ("-wal", "-shm")
_DAMAGED = ".damaged"
# What SQLite answers when what it reads is no database of ours; a query of ours fails as SQLITE_ERROR only where a
# table is missing.
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class ForeignFile(Exception):
    """A database that is no response cache: somebody else's, which must be left as it is."""


class DamagedFile(Exception):
    """A response cache of another format, or one whose header is damaged."""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that the file is damaged, and not that the machine can't read or write it now."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF in _DAMAGE or code == sqlite3.SQLITE_IOERR_SHORT_READ)


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process holds the file for the moment."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _BUSY


def open_for_reading(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """A connection that writes nothing, for one thread at a time. Raises sqlite3.Error."""
    connection = _connect(path, busy_timeout_s, mode="rw")  # even a reader of a WAL writes where it reads
    connection.execute("PRAGMA query_only = ON")
    return connection


def open_for_writing(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """A connection for one thread at a time; the file is made if there is none.

    Raises:
        ForeignFile, DamagedFile: nothing has been changed.
        OSError, sqlite3.Error: it can't be read or written, or it is damaged.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Answers are nobody's but the operator's.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = _connect(path, busy_timeout_s, mode="rw")
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def set_aside(path: Path, inode: int | None) -> None:
    """Renames a damaged file, in place of one that was set aside before; nothing if another process has done so.

    ``inode``: that of the file that was found to be damaged. Raises OSError.
    """
    if inode is None or inode_of(path) != inode:
        return
    for suffix in ("", *_SIDE_FILES):
        aside = path.with_name(path.name + _DAMAGED + suffix)
        with contextlib.suppress(FileNotFoundError):
            aside.unlink()
        with contextlib.suppress(FileNotFoundError):
            os.rename(path.with_name(path.name + suffix), aside)
    log.error(logs.event("response_cache_damaged", set_aside=path.with_name(path.name + _DAMAGED)))


def inode_of(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _connect(path: Path, busy_timeout_s: float, *, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=busy_timeout_s,
        isolation_level=None,
        check_same_thread=False,
    )


def _prepare(connection: sqlite3.Connection) -> None:
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and application_id != APPLICATION_ID and not tables >= {"entries", "answers"}:
        raise ForeignFile
    if tables and (application_id, found) != (APPLICATION_ID, FORMAT):
        raise DamagedFile(f"application id {application_id:#x}, format {found}; want {APPLICATION_ID:#x}, {FORMAT}")
    connection.execute("PRAGMA journal_mode = WAL")
    # A crash of the machine may lose the latest answers, never the file.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA journal_size_limit = 16777216")
    # What was purged is overwritten wherever that costs no further write.
    connection.execute("PRAGMA secure_delete = FAST")
    if not tables:
        _make_tables(connection)


def _make_tables(connection: sqlite3.Connection) -> None:
    """Answers stand by themselves: what is asked of all entries reads none of them."""
    from sqlite_utils import Database  # takes 0.1 s, and most starts find the tables

    begun_at = time.monotonic()
    connection.execute("BEGIN IMMEDIATE")
    try:
        database = Database(connection, execute_plugins=False)
        if "entries" not in database.table_names():  # another process may have been first
            database.table("entries").create(
                {
                    "id": int,
                    "key": bytes,
                    "model": str,
                    "version": str,
                    "owner": str,
                    "created_s": float,
                    "used": int,
                    "n_tokens": int,
                    "checksum": int,
                },
                pk="id",
                not_null={"key", "model", "version", "owner", "created_s", "used", "n_tokens", "checksum"},
            )
            database.table("entries").create_index(["key"], unique=True)
            database.table("entries").create_index(["used"])
            database.table("answers").create({"id": int, "body": bytes}, pk="id", not_null={"body"})
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    log.debug(logs.event("response_cache_made", took_s=time.monotonic() - begun_at))
