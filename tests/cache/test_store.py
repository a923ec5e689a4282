"""What is kept, for how long, and what makes room for what."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from appliance.cache.store import ResponseCache
from tests.cache.answers import SIDE_FILES, answer, entries, key, put, stored, written
from tests.response_cache import FILE, open_cache

MIB = 1 << 20


class Clock:
    """A wall clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[ResponseCache]:
    async with open_cache(tmp_path) as opened:
        yield opened


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Nobody else can write for as long as the block."""
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        holder.close()


async def test_an_answer_is_found_at_once_and_when_it_is_written(cache: ResponseCache) -> None:
    put(cache, [1])
    assert await stored(cache, [1, 2]) == [1]
    await written(cache)
    assert await stored(cache, [1, 2]) == [1]
    assert entries(cache.path) == 1


async def test_an_answer_is_found_before_it_can_be_written(cache: ResponseCache) -> None:
    put(cache, [1])
    await written(cache)
    with held(cache.path):
        put(cache, [2])
        assert await stored(cache, [1, 2]) == [1, 2]
    await written(cache)
    assert entries(cache.path) == 2


async def test_a_later_answer_takes_the_place_of_an_older_one(cache: ResponseCache) -> None:
    put(cache, [1])
    await written(cache)
    newer = answer(99)
    cache.put(key(1), newer, model="m2", version="v2", owner="other")
    for _ in range(2):
        found = await cache.get(key(1))
        assert found is not None
        assert found.answer == newer
        (group,) = await cache.groups()
    assert (group.model, group.version, group.owner, group.n_answers) == ("m2", "v2", "other", 1)


async def test_answers_are_there_after_a_restart(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache:
        put(cache, range(50))
    async with open_cache(tmp_path) as cache:
        assert await stored(cache, range(51)) == list(range(50))


async def test_ages_are_told_and_limited(tmp_path: Path, clock: Clock) -> None:
    async with open_cache(tmp_path, ttl_s=100, clock=clock) as cache:
        put(cache, [1])
        for wait_until_written in (False, True):
            clock.now_s = 1_000_000.0
            if wait_until_written:
                await written(cache)
            clock.now_s = 1_000_040.0
            found = await cache.get(key(1))
            assert found is not None
            assert found.age_s == 40
            assert await cache.get(key(1), max_age_s=39) is None
            assert await cache.get(key(1), max_age_s=40) is not None
            clock.now_s = 1_000_100.0
            assert await cache.get(key(1), max_age_s=500) is not None
            clock.now_s = 1_000_101.0
            assert await cache.get(key(1), max_age_s=500) is None


async def test_without_a_time_to_live_nothing_gets_too_old(tmp_path: Path, clock: Clock) -> None:
    async with open_cache(tmp_path, clock=clock) as cache:
        put(cache, [1])
        clock.now_s *= 2
        assert await stored(cache, [1]) == [1]
        await written(cache)
        assert await stored(cache, [1]) == [1]


async def test_what_is_past_its_time_is_deleted_whatever_there_is_of_it(tmp_path: Path, clock: Clock) -> None:
    async with open_cache(tmp_path, clock=clock) as cache:
        put(cache, range(3000))
    clock.now_s += 50
    async with open_cache(tmp_path, clock=clock) as cache:
        put(cache, [3000])
    clock.now_s += 60
    async with open_cache(tmp_path, ttl_s=100, clock=clock) as cache:
        while sum(group.n_answers for group in await cache.groups()) > 1:
            pass
        assert await stored(cache, [0, 3000]) == [3000]
    assert entries(cache.path) == 1


async def test_a_clock_that_is_set_back_makes_no_answer_younger_than_it_is(tmp_path: Path, clock: Clock) -> None:
    async with open_cache(tmp_path, ttl_s=1000, clock=clock) as cache:
        put(cache, [1])
        await written(cache)
        clock.now_s -= 30  # what happens every day
        found = await cache.get(key(1), max_age_s=0)
        assert found is not None
        assert found.age_s == 0
        clock.now_s -= 10_000
        assert await cache.get(key(1)) is None
        put(cache, [1])  # it is computed again
        assert await cache.get(key(1)) is not None
        await written(cache)
        assert await cache.get(key(1)) is not None
        put(cache, [2])
        await written(cache)
    clock.now_s -= 10_000
    async with open_cache(tmp_path, ttl_s=1000, clock=clock) as cache:  # nobody can tell when these will have expired
        await written(cache)
        assert await cache.groups() == []


async def test_the_longest_unused_make_room_within_the_limit(tmp_path: Path) -> None:
    async with open_cache(tmp_path, max_bytes=MIB) as cache:
        for n in range(300):
            put(cache, [n], n_bytes=8000)
            assert await stored(cache, [0], n_bytes=8000) == [0]
            await written(cache)
            assert cache.used_bytes <= MIB
        kept = await stored(cache, range(300), n_bytes=8000)
    assert kept == [0, *range(300 - len(kept) + 1, 300)]
    assert len(kept) > MIB / 4000 * 0.6
    assert cache.n_evicted == 300 - len(kept)
    assert (tmp_path / FILE).stat().st_size < 1.2 * MIB


async def test_a_few_large_answers_are_not_all_evicted_for_another(tmp_path: Path) -> None:
    async with open_cache(tmp_path, max_bytes=MIB) as cache:
        for n in range(10):
            put(cache, [n], n_bytes=400_000)
            await written(cache)
        kept = await stored(cache, range(10), n_bytes=400_000)
        assert len(kept) >= 3
        assert kept == list(range(10 - len(kept), 10))


async def test_a_batch_that_is_larger_than_the_limit_leaves_its_latest(tmp_path: Path) -> None:
    async with open_cache(tmp_path, max_bytes=MIB) as cache:
        put(cache, range(500), n_bytes=8000)
        await written(cache)
        kept = await stored(cache, range(500), n_bytes=8000)
        assert kept[-1] == 499
        assert cache.used_bytes <= MIB


async def test_an_answer_that_would_push_out_most_others_is_not_kept(tmp_path: Path) -> None:
    async with open_cache(tmp_path, max_bytes=MIB) as cache:
        put(cache, [1])
        put(cache, [2], n_bytes=MIB)
        await written(cache)
        assert await stored(cache, [1]) == [1]
        assert await cache.get(key(2)) is None
        assert (cache.n_unkept, cache.n_evicted, cache.problem) == (1, 0, None)


async def test_a_lower_limit_is_kept_without_waiting_for_an_answer(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache:
        put(cache, range(3000), n_bytes=4000)
    async with open_cache(tmp_path, max_bytes=MIB) as cache:
        await written(cache)
        while cache.used_bytes > MIB:
            await cache.groups()
        assert 100 < len(await stored(cache, range(2000, 3000), n_bytes=4000))
        wal_bytes = (tmp_path / f"{FILE}-wal").stat().st_size
    assert wal_bytes < 10 * MIB


async def test_what_waits_is_bounded(cache: ResponseCache) -> None:
    await written(cache)
    with held(cache.path):
        put(cache, range(100), n_completion=100_000)  # 20 MB each
        n_kept = 100 - cache.n_unkept
        assert 1 < n_kept < 10
        put(cache, [0], n_completion=100_000)
        assert 100 - cache.n_unkept == n_kept - 1
        found = [n for n in range(100) if await cache.get(key(n)) is not None]
        assert found == list(range(n_kept))
    await written(cache)
    put(cache, [1000])
    await written(cache)
    assert entries(cache.path) == n_kept + 1


async def test_a_use_counts_in_the_next_process(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache:
        for n in range(100):
            put(cache, [n], n_bytes=8000)
            await written(cache)
    async with open_cache(tmp_path) as cache:
        assert await stored(cache, [7], n_bytes=8000) == [7]
    async with open_cache(tmp_path, max_bytes=MIB // 4) as cache:
        await written(cache)
        assert 7 in await stored(cache, range(100), n_bytes=8000)


async def test_its_files_are_for_nobody_else(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    async with open_cache(folder) as cache:
        put(cache, [1])
        await written(cache)
        assert await stored(cache, [1]) == [1]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for suffix in SIDE_FILES:
            assert stat.S_IMODE((folder / f"{FILE}{suffix}").stat().st_mode) == 0o600
