"""A process is killed while it writes, at moments by chance: the file opens, and every answer in it is whole.

Five moments, or as many as ``TORTURE_POINTS`` says (`make torture`).
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.cache.answers import entries, stored, written
from tests.cache.peer import N_BYTES, running_peer
from tests.response_cache import FILE, open_cache

N_POINTS = int(os.environ.get("TORTURE_POINTS", "5"))

pytestmark = pytest.mark.timeout(60 * N_POINTS)


@pytest.mark.parametrize("max_bytes", [64 << 20, 1 << 20], ids=["growing", "evicting"])
async def test_a_process_that_is_killed_while_it_writes(tmp_path: Path, max_bytes: int) -> None:
    """The next one goes on with the same file, five times."""
    chance = random.Random(max_bytes)
    n = n_written = 0
    for point in range(N_POINTS):
        folder = tmp_path / str(point // 5)
        n = n if folder.exists() else 0
        n = killed_after(folder / FILE, n, chance.uniform(0, 0.5), max_bytes)
        async with open_cache(folder, max_bytes=max_bytes) as cache:
            found = await stored(cache, range(n + 1000), n_bytes=N_BYTES)
            await written(cache)
            certain = range(n) if max_bytes > 1 << 20 else range(max(0, n - 100), n)
            assert set(certain) <= set(found), "what was written for certain is gone"
            assert cache.used_bytes <= max_bytes
            assert cache.n_unread == 0
        assert entries(folder / FILE) == len(found)
        assert not (folder / f"{FILE}.damaged").exists()
        n_written += n
        n = max(found, default=-1) + 1
    assert n_written, "it was always killed before it wrote"


def killed_after(path: Path, n: int, after_s: float, max_bytes: int) -> int:
    """Up to which number answers were written for certain by a process that was killed so long after its start."""
    with running_peer(path, max_bytes=max_bytes) as peer:
        peer.tell("fill", n)
        time.sleep(after_s)  # the moment is what is tried
        os.kill(peer.process.pid, signal.SIGKILL)
        assert peer.process.stdout is not None
        said = peer.process.stdout.read().splitlines()
    return int(json.loads(said[-1])) if said else n
