"""What happens to the file while it is open: deleted, replaced, held, made read-only, no room. No request sees any."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.cache.store import ResponseCache
from tests.cache.answers import SIDE_FILES, entries, key, put, stored, written
from tests.cache.peer import Peer, running_peer
from tests.response_cache import FILE, open_cache

NOBODY = 65534
# A namespace of its own, by root's rights or by those that it gives itself there.
NAMESPACES = (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"])


def delete_all(path: Path) -> None:
    for suffix in SIDE_FILES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def delete_the_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def put_a_copy_in_its_place(path: Path) -> None:
    """As when somebody brings back a backup."""
    copy = path.with_name("copy")
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    delete_all(path)
    copy.rename(path)


@pytest.mark.parametrize("delete", [Path.unlink, delete_all, delete_the_folder])
async def test_a_file_that_is_deleted_is_made_anew(tmp_path: Path, delete: Callable[[Path], None]) -> None:
    async with open_cache(tmp_path / "cache") as cache:
        put(cache, [1])
        await written(cache)
        assert await stored(cache, [1]) == [1]
        delete(cache.path)
        put(cache, [2])
        assert await stored(cache, [2]) == [2]
        await written(cache)
        assert await stored(cache, [1, 2]) == [2]
        assert cache.problem is None
        assert entries(cache.path) == 1
        put(cache, [3])
    assert entries(cache.path) == 2


async def test_a_file_in_its_place_is_read(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache:
        put(cache, [1])
        await written(cache)
        put_a_copy_in_its_place(cache.path)
        put(cache, [2])
        await written(cache)
        assert await stored(cache, [1, 2]) == [1, 2]
    assert entries(cache.path) == 2


async def test_another_programs_database_in_its_place_is_left_alone(tmp_path: Path) -> None:
    async with open_cache(tmp_path, retry_s=0.01) as cache:
        put(cache, [1])
        await written(cache)
        assert await stored(cache, [1]) == [1]
        delete_all(cache.path)
        others = others_database(cache.path)
        put(cache, [2])
        with pytest.raises(sqlite3.OperationalError, match="another program's database"):
            await cache.groups()
        assert await stored(cache, [1, 2]) == []
        assert cache.path.read_bytes() == others
        cache.path.unlink()
        await until_written_again(cache)
    assert entries(cache.path) > 0


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("application_id", [0, 77])
async def test_another_programs_database_is_never_opened(tmp_path: Path, mode: str, application_id: int) -> None:
    others = others_database(tmp_path / FILE, mode, application_id)
    async with open_cache(tmp_path) as cache:
        put(cache, [1])
        with pytest.raises(sqlite3.OperationalError, match="another program's database"):
            await cache.groups()
        assert await stored(cache, [1]) == []
        assert (cache.n_unkept, cache.used_bytes, cache.n_unread) == (1, 0, 0)
    assert (tmp_path / FILE).read_bytes() == others
    assert os.listdir(tmp_path) == [FILE]


async def test_a_file_of_an_older_format_is_set_aside(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache:
        put(cache, [1])
        await written(cache)
    older = sqlite3.connect(tmp_path / FILE)
    older.execute("PRAGMA user_version = 0")
    older.close()
    async with open_cache(tmp_path) as cache:
        assert await stored(cache, [1]) == []
        put(cache, [2])
        await written(cache)
        assert await stored(cache, [1, 2]) == [2]
    assert entries(tmp_path / FILE) == 1
    assert entries(tmp_path / f"{FILE}.damaged") == 1


async def test_a_table_of_the_operators_own_does_no_harm(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache:
        put(cache, [1])
    analysed = sqlite3.connect(tmp_path / FILE)
    analysed.execute("ANALYZE")
    analysed.close()
    async with open_cache(tmp_path) as cache:
        assert await stored(cache, [1]) == [1]


async def test_while_another_process_writes_all_is_read_and_nothing_is_lost(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache:
        put(cache, [1])
        await written(cache)
        holder = sqlite3.connect(cache.path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        held_at = time.monotonic()
        n = 2
        while time.monotonic() < held_at + 1.5:  # longer than a commit waits
            put(cache, [n])
            n += 1
            await asyncio.sleep(0.01)
        assert await stored(cache, range(1, n)) == list(range(1, n))
        assert cache.problem is None
        holder.close()
        await written(cache)
        assert cache.n_unkept == 0
    assert entries(tmp_path / FILE) == n - 1


async def test_a_file_that_can_not_even_be_read_holds_up_no_request(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache:
        put(cache, [1])
    holder = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN IMMEDIATE")
    async with open_cache(tmp_path) as cache:
        put(cache, [2])
        asked_at = time.monotonic()
        assert [await cache.get(key(1)) for _ in range(200)] == [None] * 200
        assert time.monotonic() - asked_at < 10  # 50 ms each would be as much
        assert await stored(cache, [1, 2]) == [2]
        assert cache.problem is None
        holder.close()
        await written(cache)
        assert cache.n_unkept == 0
    assert entries(tmp_path / FILE) == 2


async def test_a_stop_waits_for_the_file_and_blocks_nobody(tmp_path: Path) -> None:
    cache = ResponseCache(tmp_path / FILE, max_bytes=1 << 24)
    cache.start()
    put(cache, [1])
    await written(cache)
    holder = sqlite3.connect(cache.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    put(cache, [2])
    stopping = asyncio.create_task(cache.stop())
    for _ in range(100):  # the loop goes on meanwhile; longer than a commit waits
        await asyncio.sleep(0.01)
        assert not stopping.done()
    holder.close()
    await stopping
    assert entries(cache.path) == 2


async def test_a_stop_gives_up_at_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.cache.store._STOP_TIMEOUT_S", 0.1)
    async with open_cache(tmp_path) as cache:
        put(cache, [1])
        await written(cache)
        holder = sqlite3.connect(cache.path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        put(cache, [2])
    holder.close()
    assert entries(cache.path) == 1


def test_a_file_that_is_made_read_only_while_it_is_open(foreign_folder: Path) -> None:
    path = foreign_folder / FILE
    with running_peer(path, user=NOBODY) as peer:
        assert peer.ask("put", 0, 10)
        assert peer.ask("stored", 0, 10) == list(range(10))
        make_read_only(foreign_folder)
        # Who has it open may go on, and need not.
        peer.ask("put", 10, 20)
        assert peer.ask("stored", 0, 10) == list(range(10))
        assert set(peer.ask("stored", 10, 20)) <= set(range(10, 20))
        assert peer.ask("status")["n_unread"] == 0


def test_a_file_that_is_read_only_is_read_and_written_again_when_it_may_be(foreign_folder: Path) -> None:
    path = foreign_folder / FILE
    with running_peer(path, user=NOBODY) as peer:
        assert peer.ask("put", 0, 10)
        peer.ask("stop")
    path.chmod(0o400)
    with running_peer(path, user=NOBODY) as peer:
        assert not peer.ask("put", 10, 20)
        assert "readonly" in peer.ask("status")["problem"]
        assert peer.ask("stored", 0, 20) == list(range(10))
        looked_at = time.monotonic()
        while time.monotonic() < looked_at + 0.5:  # it is tried again meanwhile
            assert not peer.ask("look")
        path.chmod(0o600)
        until(lambda: peer.ask("look"))
        assert peer.ask("put", 20, 30)
        assert peer.ask("stored", 0, 30) == [*range(10), *range(20, 30)]
        assert peer.ask("status")["problem"] is None


def test_a_file_that_can_not_be_read_is_tried_again_but_not_for_each_request(foreign_folder: Path) -> None:
    path = foreign_folder / FILE
    with running_peer(path, user=NOBODY) as peer:
        assert peer.ask("put", 0, 10)
        path.chmod(0)  # before anything was read
        tried_at = time.monotonic()
        assert peer.ask("stored", 0, 10) == []
        assert 1 <= peer.ask("status")["n_unread"] <= 1 + time.monotonic() - tried_at
        path.chmod(0o600)
        until(lambda: peer.ask("stored", 0, 10) == list(range(10)))
        assert peer.ask("status")["problem"] is None


def test_a_folder_that_is_read_only_costs_the_answers_only(foreign_folder: Path) -> None:
    path = foreign_folder / FILE
    make_read_only(foreign_folder)
    with running_peer(path, user=NOBODY) as peer:
        assert not peer.ask("put", 0, 10)
        assert peer.ask("stored", 0, 10) == []
        assert "Permission denied" in peer.ask("status")["problem"]
        foreign_folder.chmod(0o700)
        until(lambda: peer.ask("put", 20, 30))
        assert peer.ask("stored", 0, 30) == list(range(20, 30))


def test_on_a_full_disk_all_is_read_and_writing_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with running_peer(tmp_path / FILE, within=small_disk(tmp_path)) as peer:
        assert peer.ask("put", 0, 50)
        peer.ask("leave no room")
        n = fill_up(peer, 50)
        assert peer.ask("status")["problem"] == "database or disk is full"
        assert peer.ask("status")["n_unkept"] > 0
        assert peer.ask("stored", 0, 50) == list(range(50))
        peer.ask("make room")
        until(lambda: peer.ask("put", n, n + 10))
        assert peer.ask("stored", n, n + 10) == list(range(n, n + 10))
        assert peer.ask("stored", 0, 50) == list(range(50))
        assert peer.ask("status")["n_unread"] == 0


def test_a_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    with running_peer(tmp_path / FILE, within=small_disk(tmp_path, "dd if=/dev/zero of=ballast status=none;")) as peer:
        assert not peer.ask("put", 0, 50)
        assert peer.ask("stored", 0, 50) == []
        peer.ask("make room")
        until(lambda: peer.ask("put", 50, 60))
        assert peer.ask("stored", 0, 60) == list(range(50, 60))


def test_a_disk_that_refuses_what_is_written(tmp_path: Path) -> None:
    with running_peer(tmp_path / FILE) as peer:
        assert peer.ask("put", 0, 50)
        peer.ask("limit files", 600_000)
        n = fill_up(peer, 50)
        assert "I/O error" in peer.ask("status")["problem"]
        assert peer.ask("stored", 0, 50) == list(range(50))
        peer.ask("make room")
        until(lambda: peer.ask("put", n, n + 10))
        assert peer.ask("stored", n, n + 10) == list(range(n, n + 10))
        peer.ask("stop")
    assert entries(tmp_path / FILE) >= 60


def others_database(path: Path, mode: str = "delete", application_id: int = 0) -> bytes:
    """Its content."""
    others = sqlite3.connect(path)
    others.execute(f"PRAGMA application_id = {application_id}")
    others.execute(f"PRAGMA journal_mode = {mode}")
    with others:
        others.execute("CREATE TABLE entries (question TEXT)")
        others.execute("CREATE TABLE answers (id, body)")
        others.execute("INSERT INTO answers VALUES (1, 'mine')")
    others.close()
    return path.read_bytes()


def small_disk(folder: Path, prepare: str = "") -> list[str]:
    """What a command runs within to have a disk of 1 MiB of its own there."""
    for namespace in NAMESPACES:
        mount = f"mount -t tmpfs -o size=1m none '{folder}'"
        if subprocess.run([*namespace, "sh", "-c", mount], capture_output=True).returncode == 0:
            return [*namespace, "sh", "-c", f"{mount}; (cd '{folder}'; {prepare}); exec \"$@\"", "sh"]
    pytest.skip("nothing may be mounted here")


def fill_up(peer: Peer, n: int) -> int:
    """Puts until no more can be written; the next number."""
    while peer.ask("put", n, n + 10):
        n += 10
        assert n < 10_000
    return n + 10


def until(attempt: Callable[[], Any]) -> None:
    give_up_at = time.monotonic() + 30
    while not attempt():
        assert time.monotonic() < give_up_at


async def until_written_again(cache: ResponseCache) -> None:
    give_up_at = time.monotonic() + 30
    while True:
        put(cache, [5])
        with contextlib.suppress(sqlite3.Error):
            await written(cache)
        if cache.problem is None:
            return
        assert time.monotonic() < give_up_at


def make_read_only(folder: Path) -> None:
    for path in folder.iterdir():
        path.chmod(0o400)
    folder.chmod(0o500)


@pytest.fixture
def foreign_folder() -> Iterator[Path]:
    """A folder of the one whom peers become; the tests' own can't be reached by everyone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if os.getuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        yield folder
        folder.chmod(0o700)
