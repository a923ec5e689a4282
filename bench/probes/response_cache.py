"""``python -m bench.probes.response_cache make|open FILE BYTES``: a large response cache, made, or opened and timed.

Both end without closing it, as one that is killed: whoever opens the file next has its WAL to recover. Before it is
opened the file is dropped from the machine's memory.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from appliance.cache.answer import Answer
from appliance.cache.store import ResponseCache
from bench.errors import BenchError
from bench.stored_answers import N_TOKENS, answer_of, store

# Each token as long as a line, and random, so that an answer takes as much in the file as one of 1,500 usual tokens,
# and is made within a few hundred microseconds.
_TOKEN_BYTES = 75
# Stored between two looks at the file's size.
_AT_ONCE = 4000


def key(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def answer(number: int) -> Answer:
    draw = random.Random(number)
    texts = (base64.b64encode(draw.randbytes(_TOKEN_BYTES)).decode() for _ in range(N_TOKENS))
    return answer_of(texts)


def numbered(first: int) -> Iterator[tuple[bytes, Answer]]:
    return ((key(number), answer(number)) for number in range(first, first + _AT_ONCE))


async def make(path: Path, n_bytes: int) -> dict[str, float]:
    cache = ResponseCache(path, max_bytes=2 * n_bytes)
    cache.start()
    n_answers = 0
    while cache.used_bytes < n_bytes:
        await store(cache, numbered(n_answers))
        n_answers += _AT_ONCE
    return {"n_answers": n_answers}


async def opened(path: Path, n_bytes: int) -> dict[str, float]:
    wal = path.with_name(f"{path.name}-wal")
    _drop_from_memory(path)
    _drop_from_memory(wal)
    wal_bytes = wal.stat().st_size
    started_s = time.perf_counter()
    cache = ResponseCache(path, max_bytes=2 * n_bytes)
    cache.start()
    found = await cache.get(key(0))
    open_s = time.perf_counter() - started_s
    if found is None or found.answer != answer(0) or cache.n_unread:
        raise BenchError("the answer that was asked for is not in the file any more")
    return {"open_s": open_s, "file_bytes": path.stat().st_size, "wal_bytes": wal_bytes}


def _drop_from_memory(path: Path) -> None:
    with path.open("rb") as file:
        os.fdatasync(file.fileno())  # only what is on the disk can be dropped
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    work = {"make": make, "open": opened}[sys.argv[1]]
    measured = asyncio.run(work(Path(sys.argv[2]), int(sys.argv[3])))
    sys.stdout.write(json.dumps(measured))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
