"""What an administrator asks of the response cache's file, on the connection that writes."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from appliance.cache.entries import delete, file_bytes, transaction

# Deleted in one transaction: requests are answered from the file between two of them.
_DELETED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Selection:
    """Which answers: those that meet all that isn't None. ``created_before_s`` is a time of the wall clock."""

    model: str | None = None
    version: str | None = None
    owner: str | None = None
    created_before_s: float | None = None

    def condition(self) -> tuple[str, tuple[object, ...]]:
        """As SQL, and its values."""
        wanted = [
            ("model = ?", self.model),
            ("version = ?", self.version),
            ("owner = ?", self.owner),
            ("created_s < ?", self.created_before_s),
        ]
        given = [(text, value) for text, value in wanted if value is not None]
        return " AND ".join(text for text, _ in given) or "1", tuple(value for _, value in given)


@dataclass(frozen=True, slots=True)
class Group:
    """The answers of one version of a model that were computed for one API key; ``oldest_s`` of the wall clock."""

    model: str
    version: str
    owner: str
    n_answers: int
    n_tokens: int
    oldest_s: float


def groups(connection: sqlite3.Connection) -> list[Group]:
    """All answers, by model, version and API key."""
    from sqlite_utils import Database

    rows: Any = Database(connection, execute_plugins=False).query(
        "SELECT model, version, owner, count(*) AS n_answers, sum(n_tokens) AS n_tokens, min(created_s) AS oldest_s "
        "FROM entries GROUP BY model, version, owner ORDER BY model, version, owner"
    )
    return [Group(**row) for row in rows]


def purge(connection: sqlite3.Connection, selection: Selection) -> int:
    """Removes answers; how many there were."""
    condition, values = selection.condition()
    n_purged = 0
    while True:
        with transaction(connection):
            n_deleted = delete(connection, f"WHERE {condition}", values, at_most=_DELETED_AT_ONCE)
        n_purged += n_deleted
        if n_deleted < _DELETED_AT_ONCE:
            break
    # It was overwritten in the file; so it is in that of the WAL.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return n_purged


def vacuum(connection: sqlite3.Connection) -> tuple[int, int]:
    """Writes the file anew without what is free in it; its bytes before and after. It takes as much room meanwhile."""
    from sqlite_utils import Database

    before = file_bytes(connection)
    Database(connection, execute_plugins=False).vacuum()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return before, file_bytes(connection)
