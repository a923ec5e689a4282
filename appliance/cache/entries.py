"""What stands in the response cache's file, as statements on a connection that writes."""

from __future__ import annotations

import contextlib
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# Evicted between two looks at the size; it begins with one, so that few large answers aren't all evicted for another.
_EVICTED_AT_ONCE = 64

GET = "SELECT id, created_s, checksum, body FROM entries JOIN answers USING (id) WHERE key = ?"


@dataclass(frozen=True, slots=True)
class Entry:
    """An answer as it is written. ``owner`` is the name of the API key that asked, ``created_s`` the wall clock's."""

    key: bytes
    model: str
    version: str
    owner: str
    created_s: float
    n_tokens: int
    body: bytes


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commits what is done in the block, or none of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def checksum(key: bytes, created_s: float, body: bytes) -> int:
    """Binds an answer to its key and its time: what a damaged file gives for another is none."""
    return zlib.crc32(body, zlib.crc32(struct.pack("<d", created_s), zlib.crc32(key)))


def write(connection: sqlite3.Connection, entries: Iterable[Entry], touched: Iterable[int]) -> None:
    """Puts entries in the place of older ones; they and the ``touched`` ones, given by id, are the latest used.

    Inside a transaction.
    """
    # By numbers, and not by a clock that may be set back: the latest use has the greatest. Added up by SQLite, which
    # takes whatever a damaged file holds.
    used = connection.execute("SELECT coalesce(max(used), 0) + 1 FROM entries").fetchone()[0]
    connection.executemany("UPDATE entries SET used = ? WHERE id = ?", ((used, id_) for id_ in touched))
    for entry in entries:
        about = (entry.model, entry.version, entry.owner, entry.created_s, used, entry.n_tokens)
        connection.execute(_PUT_ENTRY, (entry.key, *about, checksum(entry.key, entry.created_s, entry.body)))
        connection.execute(_PUT_ANSWER, (entry.body, entry.key))


_PUT_ENTRY = """
INSERT INTO entries (key, model, version, owner, created_s, used, n_tokens, checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET model = excluded.model, version = excluded.version, owner = excluded.owner,
    created_s = excluded.created_s, used = excluded.used, n_tokens = excluded.n_tokens, checksum = excluded.checksum
"""
_PUT_ANSWER = "INSERT OR REPLACE INTO answers (id, body) SELECT id, ? FROM entries WHERE key = ?"


def delete(connection: sqlite3.Connection, which: str, values: tuple[object, ...], *, at_most: int) -> int:
    """Removes entries with their answers; how many. ``which`` is SQL: a condition or an order. Inside a transaction."""
    ids = connection.execute(f"SELECT id FROM entries {which} LIMIT {at_most}", values).fetchall()
    connection.executemany("DELETE FROM answers WHERE id = ?", ids)
    connection.executemany("DELETE FROM entries WHERE id = ?", ids)
    return len(ids)


def evict(connection: sqlite3.Connection, max_bytes: int, *, at_most: int) -> int:
    """Deletes the longest unused entries until ``max_bytes`` are used; how many. Inside a transaction."""
    n_evicted, n_at_once = 0, 1
    while n_evicted < at_most and used_bytes(connection) > max_bytes:
        n_deleted = delete(connection, "ORDER BY used, id", (), at_most=n_at_once)
        if not n_deleted:
            break
        n_evicted += n_deleted
        n_at_once = min(2 * n_at_once, _EVICTED_AT_ONCE)
    return n_evicted


def used_bytes(connection: sqlite3.Connection) -> int:
    """What is used of the file, which never shrinks by itself but is filled again."""
    return file_bytes(connection) - _pragma(connection, "page_size") * _pragma(connection, "freelist_count")


def file_bytes(connection: sqlite3.Connection) -> int:
    """The file's size, with what is free in it."""
    return _pragma(connection, "page_size") * _pragma(connection, "page_count")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
