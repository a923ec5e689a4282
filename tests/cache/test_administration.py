"""Statistics, purges and the vacuum."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.cache.administration import Selection
from appliance.cache.store import ResponseCache
from tests.cache.answers import SIDE_FILES, answer, entries, put, stored, written
from tests.response_cache import FILE, open_cache

TIMES = (100.0, 200.0)
# Of each model, version, key and time one, numbered in this order.
ALL = list(itertools.product(("a", "b"), ("v1", "v2"), ("x", "y"), TIMES))


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[ResponseCache]:
    now_s = TIMES[0]
    async with open_cache(tmp_path, clock=lambda: now_s) as opened:
        for n, (model, version, owner, now_s) in enumerate(ALL):  # noqa: B007 (the clock reads it)
            put(opened, [n], model=model, version=version, owner=owner)
        await written(opened)
        yield opened


async def test_answers_are_counted_by_model_version_and_key(cache: ResponseCache) -> None:
    groups = await cache.groups()
    assert [(group.model, group.version, group.owner) for group in groups] == list(
        itertools.product(("a", "b"), ("v1", "v2"), ("x", "y"))
    )
    assert {(group.n_answers, group.n_tokens, group.oldest_s) for group in groups} == {(2, 16, 100.0)}


@pytest.mark.parametrize(
    "selection",
    [
        Selection(**dict(zip(("model", "version", "owner", "created_before_s"), choice, strict=True)))
        for choice in itertools.product((None, "a"), (None, "v1"), (None, "x"), (None, 150.0))
    ],
    ids=str,
)
async def test_a_purge_removes_what_meets_all_that_is_chosen(cache: ResponseCache, selection: Selection) -> None:
    chosen = [
        n
        for n, (model, version, owner, created_s) in enumerate(ALL)
        if selection.model in (None, model)
        and selection.version in (None, version)
        and selection.owner in (None, owner)
        and (selection.created_before_s is None or created_s < selection.created_before_s)
    ]
    assert await cache.purge(selection) == len(chosen)
    assert await stored(cache, range(len(ALL))) == [n for n in range(len(ALL)) if n not in chosen]
    assert await cache.purge(selection) == 0
    assert entries(cache.path) == len(ALL) - len(chosen)


async def test_a_purge_chooses_by_whole_names(cache: ResponseCache) -> None:
    for odd in ("a%", "A", "", "' OR 1 --"):
        assert await cache.purge(Selection(model=odd)) == 0
        assert await cache.purge(Selection(owner=odd)) == 0


async def test_a_purge_removes_what_was_only_just_put(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache:
        await written(cache)
        put(cache, range(5000))
        assert await cache.purge(Selection()) == 5000
        assert await stored(cache, range(5000)) == []


async def test_a_purge_that_another_process_prevents_says_so_and_brings_nothing_back(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache:
        put(cache, [1])
        await written(cache)
        holder = sqlite3.connect(cache.path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        put(cache, [2])
        with pytest.raises(sqlite3.OperationalError, match="another process"):
            await cache.purge(Selection())
        holder.close()
        assert await stored(cache, [1, 2]) == [1, 2]
        assert await cache.purge(Selection()) == 2


async def test_what_was_purged_is_in_no_file(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache:
        put(cache, range(100), n_bytes=20_000)
        await written(cache)
        bodies = [answer(n, n_bytes=20_000).encode() for n in range(100)]
        # A page holds some of each: looked for is a piece that fits into one.
        pieces = [body[4000:4200] for body in bodies]
        assert all(piece in content(cache.path) for piece in pieces)
        assert await cache.purge(Selection()) == 100
        assert not any(piece in content(cache.path) for piece in pieces)


async def test_a_vacuum_gives_room_back_and_keeps_all(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache:
        put(cache, range(500), n_bytes=8000, owner="gone")
        put(cache, range(500, 550), n_bytes=8000)
        await cache.purge(Selection(owner="gone"))
        assert (tmp_path / FILE).stat().st_size > 2_000_000
        reading = asyncio.create_task(stored(cache, range(550), n_bytes=8000))
        before, after = await cache.vacuum()
        assert before > 2_000_000
        assert after < 400_000
        assert (tmp_path / FILE).stat().st_size == after
        assert await reading == list(range(500, 550))
        assert await stored(cache, range(550), n_bytes=8000) == list(range(500, 550))


async def test_who_asks_while_it_stops_is_told_so(tmp_path: Path) -> None:
    cache = ResponseCache(tmp_path / FILE, max_bytes=1 << 20)
    cache.start()
    asked = [asyncio.create_task(cache.groups()) for _ in range(3)]
    await asyncio.sleep(0)
    await cache.stop()
    assert [await one for one in asked] == [[], [], []]
    with pytest.raises(sqlite3.OperationalError, match="closed"):
        await cache.purge(Selection())
    assert await stored(cache, [1]) == []


def content(path: Path) -> bytes:
    return b"".join(path.with_name(path.name + suffix).read_bytes() for suffix in SIDE_FILES)
