"""Computed prefixes as files: what is written is read again, and nothing else ever is."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from appliance.engine.kv_file import Header, KVKey, Prefix, Rejected
from appliance.engine.kv_folder import KVFolder, Stored, purge, usage
from tests.server import ROOT

KEY = KVKey("5ha", "build-1", "f16", "f16")
PREFIX = Prefix.of("", "alice", range(300))
PAYLOAD = memoryview(random.Random(1).randbytes(700_000))


def folder(root: Path, key: KVKey = KEY, *, max_bytes: int = 1 << 30, min_free_bytes: int = 0) -> KVFolder:
    return KVFolder(root, key, max_bytes=max_bytes, min_free_bytes=min_free_bytes)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return folder(tmp_path).write(PREFIX, PAYLOAD)


def scan(folder: KVFolder) -> tuple[list[Stored], list[str]]:
    """What is there, and why files were rejected."""
    rejected: list[str] = []
    return list(folder.scan(lambda path, error: rejected.append(f"{error.reason}: {error}"))), rejected


def reasons(root: Path, stored: Stored) -> list[str]:
    """Why a file is rejected by one that reads it, and by one that looks what is there; it is removed."""
    content = stored.path.read_bytes()
    with pytest.raises(Rejected) as raised:
        folder(root).read(stored)
    assert not stored.path.exists()
    stored.path.write_bytes(content)
    found, rejected = scan(folder(root))
    assert not (found and rejected)
    assert stored.path.exists() == bool(found)  # one whose payload alone is damaged is found out when it is read
    return [raised.value.reason, *(text.partition(":")[0] for text in rejected)]


def test_what_is_written_is_read_again_by_another_process(tmp_path: Path, stored: Stored) -> None:
    (found,), rejected = scan(folder(tmp_path))
    assert (found, rejected) == (stored, [])
    assert folder(tmp_path).read(found) == PAYLOAD
    assert found.header.prefix.token_list() == list(range(300))
    assert stored.path.stat().st_size == stored.header.file_bytes


def test_nobody_else_may_read_the_files(tmp_path: Path) -> None:
    root = tmp_path / "kv"
    stored = folder(root).write(PREFIX, PAYLOAD)
    assert [path.stat().st_mode & 0o777 for path in (root, stored.path.parent, stored.path)] == [0o700, 0o700, 0o600]


def test_a_file_that_was_cut_anywhere_is_no_file(tmp_path: Path, stored: Stored) -> None:
    whole = stored.path.read_bytes()
    n_begin = len(stored.header.encode())
    for n_bytes in (0, 5, 11, 20, n_begin - 17, n_begin - 1, n_begin, n_begin + 1, 400_000, len(whole) - 1):
        stored.path.write_bytes(whole[:n_bytes])
        assert set(reasons(tmp_path, stored)) == {"truncated"}, n_bytes


def test_a_file_with_something_behind_it_is_no_file(tmp_path: Path, stored: Stored) -> None:
    stored.path.write_bytes(stored.path.read_bytes() + b"\0")
    assert reasons(tmp_path, stored) == ["damaged", "damaged"]


def test_one_flipped_bit_anywhere_makes_it_no_file(tmp_path: Path, stored: Stored) -> None:
    whole = bytearray(stored.path.read_bytes())
    draw = random.Random(2)
    n_begin = len(stored.header.encode())
    places = [draw.randrange(n_begin) for _ in range(40)] + [draw.randrange(n_begin, len(whole)) for _ in range(20)]
    for place in [*places, 0, 8, 11, n_begin - 1, n_begin, len(whole) - 1]:
        bit = 1 << draw.randrange(8)
        whole[place] ^= bit
        stored.path.write_bytes(whole)
        assert set(reasons(tmp_path, stored)) <= {"damaged", "truncated"}, place
        whole[place] ^= bit


@pytest.mark.parametrize("field", ["model_sha256", "build", "type_k", "type_v"])
def test_what_was_computed_otherwise_is_foreign(tmp_path: Path, stored: Stored, field: str) -> None:
    other = msgspec.structs.replace(KEY, **{field: "other"})
    foreign = folder(tmp_path, other).write(PREFIX, PAYLOAD)
    assert scan(folder(tmp_path)) == ([stored], [])  # it lies elsewhere, and belongs to another engine
    os.replace(foreign.path, stored.path)
    assert scan(folder(tmp_path)) == ([], [f"foreign: it has another {field}"])
    assert not stored.path.exists()


@pytest.mark.parametrize("prefix", [Prefix.of("", "bob", range(300)), Prefix.of("a@1", "alice", range(300))])
def test_nobody_gets_what_was_computed_for_another_scope_or_adapter(tmp_path: Path, prefix: Prefix) -> None:
    mine, other = folder(tmp_path).write(PREFIX, PAYLOAD), folder(tmp_path).write(prefix, PAYLOAD)
    os.replace(other.path, mine.path)
    assert reasons(tmp_path, mine) == ["foreign", "foreign"]


def test_a_file_that_is_gone_is_told(tmp_path: Path, stored: Stored) -> None:
    assert purge(tmp_path).n_files == 1
    with pytest.raises(Rejected) as raised:
        folder(tmp_path).read(stored)
    assert raised.value.reason == "gone"


def test_files_that_were_used_longest_ago_make_room_whosever_they_are(tmp_path: Path) -> None:
    other = folder(tmp_path, msgspec.structs.replace(KEY, build="old"))
    mine = folder(tmp_path, max_bytes=3_000_000)
    files = [other.write(PREFIX, PAYLOAD)] + [mine.write(Prefix.of("", str(n), range(9)), PAYLOAD) for n in range(3)]
    for age, stored in enumerate(files):
        os.utime(stored.path, (1000 + age, 1000 + age))
    mine.read(files[1])  # used now
    newest = mine.write(PREFIX, PAYLOAD)
    assert [stored.path.exists() for stored in (*files, newest)] == [False, True, True, True, True]
    assert usage(tmp_path).n_bytes <= 3_000_000


def test_what_can_never_fit_removes_nothing(tmp_path: Path, stored: Stored) -> None:
    with pytest.raises(OSError, match="kv_disk_limit"):
        folder(tmp_path, max_bytes=800_000).write(Prefix.of("", "", range(9)), memoryview(bytes(900_000)))
    assert stored.path.exists()


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    with pytest.raises(OSError) as raised:  # noqa: PT011
        folder(tmp_path, min_free_bytes=disk.f_bavail * disk.f_frsize).write(PREFIX, PAYLOAD)
    assert raised.value.errno == errno.ENOSPC
    assert not list(tmp_path.rglob("*.*"))


@pytest.fixture
def _small_files() -> Iterator[None]:
    """The kernel refuses to write files of more than 100 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("_small_files")
def test_a_write_that_the_system_refuses_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(OSError) as raised:  # noqa: PT011
        folder(tmp_path).write(PREFIX, PAYLOAD)
    assert raised.value.errno == errno.EFBIG
    assert not list(tmp_path.rglob("*.*"))


KILLED = """
import os, sys
from pathlib import Path
from appliance.engine.kv_folder import KVFolder
from tests.unit.test_kv_folder import KEY, PAYLOAD, PREFIX
folder = KVFolder(Path(sys.argv[1]), KEY, max_bytes=1 << 30, min_free_bytes=0)
folder.write(PREFIX, PAYLOAD, lambda: os.kill(os.getpid(), 9))
"""


def test_what_a_killed_process_was_writing_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=ROOT, check=False).returncode == -9
    (left,) = tmp_path.rglob("*.part")
    living = left.with_name("living.part")
    with living.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert scan(folder(tmp_path, msgspec.structs.replace(KEY, build="other"))) == ([], [])
    assert (left.exists(), living.exists()) == (False, True)


def test_two_that_write_at_the_same_time_keep_the_limit(tmp_path: Path) -> None:
    errors: list[BaseException] = []
    limit = 2_200_000

    def write(number: int) -> None:
        mine = folder(tmp_path, msgspec.structs.replace(KEY, build=str(number)), max_bytes=limit)
        try:
            for n_tokens in range(1, 11):
                stored = mine.write(Prefix.of("", "", range(n_tokens)), PAYLOAD)
                assert usage(tmp_path).n_bytes <= limit
                try:
                    is_right = mine.read(stored) == PAYLOAD
                except Rejected as error:
                    is_right = error.reason == "gone"  # the other one took its room
                assert is_right
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert 1 <= usage(tmp_path).n_files <= 3


def test_a_header_says_how_long_its_file_is() -> None:
    header = Header(KEY, PREFIX, 5)
    assert header.file_bytes == len(header.encode()) + 5 + 16
