"""Answers of which each test knows what they must be: number ``n`` has a key and a text of its own."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from appliance.cache.answer import Answer
from appliance.cache.store import Found, ResponseCache
from appliance.engine.messages import Piece, SequenceFinished

SIDE_FILES = ("", "-wal", "-shm")


def key(n: int) -> bytes:
    return hashlib.sha256(str(n).encode()).digest()


def answer(n: int, *, n_bytes: int = 300, n_completion: int = 5) -> Answer:
    """``n_bytes`` can't be compressed to less than half."""
    text = f"{n} {random.Random(n).randbytes(n_bytes // 2).hex()}"
    return Answer(3, n_completion, 0.5, (Piece("", 0, text), SequenceFinished("", 0, "stop", n_completion)))


def put(
    cache: ResponseCache,
    numbers: Iterable[int],
    *,
    n_bytes: int = 300,
    n_completion: int = 5,
    model: str = "m",
    version: str = "v1",
    owner: str = "app",
) -> None:
    for n in numbers:
        kept = answer(n, n_bytes=n_bytes, n_completion=n_completion)
        cache.put(key(n), kept, model=model, version=version, owner=owner)


async def written(cache: ResponseCache) -> None:
    """Until what was put before is in the file. Raises sqlite3.Error if it can't be."""
    await cache.groups()


async def stored(cache: ResponseCache, numbers: Iterable[int], *, n_bytes: int = 300) -> list[int]:
    """Which of them are found; each must be what was put."""
    found: list[tuple[int, Found | None]] = [(n, await cache.get(key(n))) for n in numbers]
    for n, one in found:
        assert one is None or one.answer == answer(n, n_bytes=n_bytes), f"{n} is answered wrongly"
    return [n for n, one in found if one is not None]


def entries(path: Path) -> int:
    """How many there are in the file, which is sound."""
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("entries", "answers")]
    connection.close()
    assert counts[0] == counts[1]
    return int(counts[0])
