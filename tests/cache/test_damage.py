"""A file that is damaged, in whatever way, gives no wrong answer and no error, and answers are kept again soon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.cache.administration import Selection
from appliance.cache.store import ResponseCache
from tests.cache.answers import SIDE_FILES, answer, entries, key, put, stored, written
from tests.response_cache import FILE, open_cache

N_SEEDS = int(os.environ.get("DAMAGE_SEEDS", "15"))
N = 80
N_BYTES = 2500  # some answers fill a part of a page, some several
PAGE = 4096


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file as a killed process leaves it: half of its answers are in the WAL only."""
    folder = tmp_path_factory.mktemp("sound")
    asyncio.run(make_sound(folder))
    return folder


async def make_sound(folder: Path) -> None:
    async with open_cache(folder / "live") as cache:
        put_all(cache, range(N // 2))
    async with open_cache(folder / "live") as cache:
        put_all(cache, range(N // 2, N))
        await written(cache)
        for path in (folder / "live").iterdir():
            shutil.copy(path, folder / path.name)
    shutil.rmtree(folder / "live")
    assert (folder / f"{FILE}-wal").stat().st_size > 20 * PAGE


@pytest.fixture
def damaged(sound: Path, tmp_path: Path) -> Path:
    """A copy to be damaged; its file."""
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    return tmp_path / FILE


def size_of(n: int) -> int:
    return 40 * N_BYTES if n % 10 == 0 else N_BYTES


def put_all(cache: ResponseCache, numbers: range) -> None:
    for n in numbers:
        put(cache, [n], n_bytes=size_of(n))


async def right(cache: ResponseCache) -> list[int]:
    """Which are found; each is right."""
    return [n for number in range(N) for n in await stored(cache, [number], n_bytes=size_of(number))]


async def test_the_file_of_a_killed_process_has_all(damaged: Path) -> None:
    async with open_cache(damaged.parent) as cache:
        assert await right(cache) == list(range(N))
    assert not damaged.with_name(f"{FILE}.damaged").exists()


def garble_header(path: Path) -> None:
    delete_wal(path)  # which has this page, too
    overwrite(path, 0, b"\xa5" * 100)


def garble_application_id(path: Path) -> None:
    delete_wal(path)
    overwrite(path, 68, b"\xa5" * 4)


def garble_page_size(path: Path) -> None:
    delete_wal(path)
    overwrite(path, 16, b"\x02\x00")


def garble_tables(path: Path) -> None:
    delete_wal(path)
    content = path.read_bytes()
    at = content.index(b"body")
    overwrite(path, at, b"bxdy")


def garble_a_name(path: Path) -> None:
    """So that SQLite's error isn't even text."""
    delete_wal(path)
    content = path.read_bytes()
    overwrite(path, content.index(b"idx_entries_used"), b"\xb8")
    overwrite(path, content.index(b"CREATE INDEX"), b"no")


def garble_middle(path: Path) -> None:
    delete_wal(path)
    for at in range(PAGE, path.stat().st_size, PAGE):
        overwrite(path, at, b"\xa5" * 64)


def cut_to_half(path: Path) -> None:
    delete_wal(path)
    os.truncate(path, path.stat().st_size // 2)


def replace_by_text(path: Path) -> None:
    path.write_text("no database\n" * 1000)


def delete_wal(path: Path) -> None:
    for suffix in SIDE_FILES[1:]:
        path.with_name(path.name + suffix).unlink()


WAYS = [
    garble_header,
    garble_application_id,
    garble_page_size,
    garble_tables,
    garble_a_name,
    garble_middle,
    cut_to_half,
    replace_by_text,
]


@pytest.mark.parametrize("damage", WAYS)
async def test_a_damaged_file_is_set_aside_and_a_new_one_begun(damaged: Path, damage: Callable[[Path], None]) -> None:
    damage(damaged)
    async with open_cache(damaged.parent) as cache:
        assert len(await right(cache)) < N
        await written(cache)
        put(cache, [1000])
        await written(cache)
        assert await stored(cache, [1000]) == [1000]
        assert cache.problem is None
    assert damaged.with_name(f"{FILE}.damaged").exists()
    assert entries(damaged) == 1


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
async def test_of_a_truncated_wal_what_is_whole_is_there(damaged: Path, part: float) -> None:
    wal = damaged.with_name(f"{FILE}-wal")
    os.truncate(wal, int(part * wal.stat().st_size))
    async with open_cache(damaged.parent) as cache:
        found = await right(cache)
        assert found[: N // 2] == list(range(N // 2))
        put(cache, [1000])
    assert entries(damaged) == len(found) + 1


async def test_a_garbled_wal_gives_what_was_written_before_it(damaged: Path) -> None:
    wal = damaged.with_name(f"{FILE}-wal")
    overwrite(wal, wal.stat().st_size // 2, b"\xa5" * 1000)
    async with open_cache(damaged.parent) as cache:
        found = await right(cache)
        assert found[: N // 2] == list(range(N // 2))
    assert entries(damaged) == len(found)


async def test_a_body_that_is_damaged_costs_this_answer_only(damaged: Path) -> None:
    async with open_cache(damaged.parent) as cache:
        await written(cache)
    body = answer(10, n_bytes=size_of(10)).encode()
    at = damaged.read_bytes().index(body[5000:5100])
    overwrite(damaged, at, b"\xa5")
    async with open_cache(damaged.parent) as cache:
        assert await right(cache) == [n for n in range(N) if n != 10]
        assert cache.n_unread == 1
        await written(cache)
        assert sum(group.n_answers for group in await cache.groups()) == N - 1
        put_all(cache, range(10, 11))
        await written(cache)
        assert await right(cache) == list(range(N))


@pytest.mark.parametrize("column", ["created_s", "checksum", "used", "n_tokens"])
@pytest.mark.parametrize("value", ["'text'", "x'ff00'", "9223372036854775807", "9e999", "-1.5", "CAST(x'ff' AS TEXT)"])
async def test_values_that_are_none_of_ours_do_no_harm(damaged: Path, column: str, value: str) -> None:
    file = sqlite3.connect(damaged)
    with file:
        file.execute(f"UPDATE entries SET {column} = {value}")
    file.close()
    async with open_cache(damaged.parent, ttl_s=1000, max_bytes=1 << 20) as cache:
        is_bound = column in ("created_s", "checksum")
        assert not (await right(cache) and is_bound)
        for n in range(1000, 1010):
            put(cache, [n])
            await written_if_possible(cache)
        put(cache, [2000])
        await written(cache)
        assert await stored(cache, [2000]) == [2000]
        assert cache.problem is None
        await cache.purge(Selection(created_before_s=0.0))


async def test_answers_of_other_keys_are_never_given(damaged: Path) -> None:
    """As when a page of the index is read in another's place."""
    file = sqlite3.connect(damaged)
    with file:
        ids = [file.execute("SELECT id FROM entries WHERE key = ?", (key(n),)).fetchone()[0] for n in range(N)]
        file.execute("UPDATE entries SET key = id")
        for n in range(N):
            file.execute("UPDATE entries SET key = ? WHERE id = ?", (key(n), ids[(n + 1) % N]))
    file.close()
    async with open_cache(damaged.parent) as cache:
        assert await right(cache) == []
        await written(cache)
        assert await cache.groups() == []


@pytest.mark.parametrize("while_open", [False, True], ids=["closed", "open"])
@pytest.mark.parametrize("seed", range(N_SEEDS))
async def test_random_damage(damaged: Path, seed: int, while_open: bool) -> None:
    chance = random.Random(seed)
    if not while_open:
        garble(damaged, chance)
    async with open_cache(damaged.parent, retry_s=0.0, max_bytes=1 << 20) as cache:
        if while_open:
            for n in chance.sample(range(N), 5):
                await stored(cache, [n], n_bytes=size_of(n))
            garble(damaged, chance)
        await right(cache)
        put(cache, range(1000, 1010))
        assert await stored(cache, range(1000, 1010)) == list(range(1000, 1010))
        await written_if_possible(cache)
        await stored(cache, range(1000, 1010))
        for _ in range(2):  # what is damaged is found by reads, by writes, and when all is looked at
            put_all(cache, range(N))
            await written_if_possible(cache)
            await right(cache)
        with contextlib.suppress(sqlite3.Error):
            await cache.purge(Selection())
        for _ in range(3):  # a file that is found to be damaged takes with it what was written to it
            put(cache, [2000])
            await written(cache)
            if await stored(cache, [2000]):
                break
        else:
            pytest.fail("nothing is kept any more")
        assert cache.problem is None


async def written_if_possible(cache: ResponseCache) -> None:
    with contextlib.suppress(sqlite3.Error):
        await written(cache)


def garble(path: Path, chance: random.Random) -> None:
    """Some places of some of its files. (That for shared memory is taken by nobody's damage but that of RAM.)"""
    for file in chance.sample([path, path.with_name(f"{path.name}-wal")], chance.choice([1, 1, 2])):
        n_bytes = file.stat().st_size
        for _ in range(chance.choice([1, 3, 30])):
            at = chance.choice([chance.randrange(n_bytes), chance.randrange(min(n_bytes, 3 * PAGE))])
            page = at // PAGE * PAGE
            match chance.randrange(5):
                case 0:
                    overwrite(file, at, chance.randbytes(1))
                case 1:
                    overwrite(file, at, chance.randbytes(chance.randrange(2 * PAGE)))
                case 2:
                    overwrite(file, page, bytes(PAGE))
                case 3:  # a page in another's place
                    other = chance.randrange(n_bytes) // PAGE * PAGE
                    overwrite(file, page, file.read_bytes()[other : other + PAGE])
                case 4:
                    os.truncate(file, max(at, n_bytes // 2))


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
