"""Two gateways with one file: each finds what the other has written, and neither harms it."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.cache.schema import file_at, make_file
from tests.cache.answers import entries, put, stored, written
from tests.cache.peer import running_peer
from tests.response_cache import FILE, open_cache

MIB = 1 << 20


def test_each_reads_what_the_other_has_written(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with running_peer(path) as one, running_peer(path) as other:
        # At the same time; the file is made by whichever is first.
        one.tell("put", 0, 100)
        other.tell("put", 50, 150)
        assert one.answer()
        assert other.answer()
        assert one.ask("stored", 0, 200) == list(range(150))
        assert other.ask("stored", 0, 200) == list(range(150))
        assert one.ask("purge") == 150
        assert other.ask("stored", 0, 200) == []
        # Who is left goes on when the other ends, in order or not.
        one.ask("stop")
        assert other.ask("put", 200, 210)
        assert other.ask("stored", 200, 210) == list(range(200, 210))
        with running_peer(path) as third:
            other.process.kill()
            assert third.ask("stored", 200, 210) == list(range(200, 210))
            assert third.ask("put", 210, 220)
    assert entries(path) == 20


async def test_a_file_that_is_opened_again_is_still_held_against_the_other(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache:
        put(cache, range(10))
        await written(cache)
        make_file(cache.path)  # as whenever it is opened, here while its connections are open
        before = file_at(tmp_path / f"{FILE}-wal")
        with running_peer(cache.path) as other:  # which would take the WAL away if it were the last
            assert other.ask("stop") == "stopped"
        assert file_at(tmp_path / f"{FILE}-wal") == before
        assert await stored(cache, range(10)) == list(range(10))


def test_the_limit_holds_for_both_together(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with running_peer(path, max_bytes=MIB) as one, running_peer(path, max_bytes=MIB) as other:
        for n in range(0, 1000, 20):
            one.tell("put", n, n + 10)
            other.tell("put", n + 10, n + 20)
            assert one.answer()
            assert other.answer()
        found = one.ask("stored", 0, 1000)
        assert set(found[-100:]) == set(range(900, 1000))
        assert len(found) < 500
        assert other.ask("stored", 0, 1000) == found
        for peer in (one, other):
            status = peer.ask("status")
            assert status["used_bytes"] <= MIB
            assert (status["n_unkept"], status["n_unread"]) == (0, 0)
    assert entries(path) == len(found)


@pytest.mark.parametrize("what", ["damage", "delete"])
def test_a_file_that_one_replaces_is_followed_by_the_other(tmp_path: Path, what: str) -> None:
    path = tmp_path / FILE
    with running_peer(path) as one, running_peer(path) as other:
        assert one.ask("put", 0, 100)
        assert other.ask("stored", 0, 100) == list(range(100))
        if what == "delete":
            path.unlink()
        else:
            for part in (path, path.with_name(f"{FILE}-wal")):
                with part.open("r+b") as file:
                    size = part.stat().st_size
                    for at in range(4096, size, 4096):
                        file.seek(at)
                        file.write(b"\xa5" * min(3000, size - at))
        for peer in (one, other):
            for _ in range(2):  # what is damaged is found by reads, or by writes
                peer.ask("stored", 0, 100)
                peer.ask("put", 100, 110)
        assert one.ask("put", 200, 210)
        assert other.ask("put", 210, 220)
        for peer in (one, other):
            assert peer.ask("stored", 200, 220) == list(range(200, 220))
            assert peer.ask("status")["problem"] is None
            assert peer.ask("stop") == "stopped"
    assert entries(path) >= 20
