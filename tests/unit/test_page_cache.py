"""Files of unloaded models stay warm within what they may take."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.supervisor.page_cache import WarmFiles

SIZE = 1 << 20


def write(path: Path) -> Path:
    with path.open("wb") as file:
        file.write(os.urandom(SIZE))
        os.fsync(file.fileno())  # only clean pages can be let go
    return path


def is_warm(path: Path) -> bool:
    """Whether the file's first bytes can be had without the disk."""
    with path.open("rb") as file:
        try:
            return os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT) == 1
        except BlockingIOError:
            return False


def test_those_that_were_used_longest_ago_are_let_go(tmp_path: Path) -> None:
    files, paths = WarmFiles(), [tmp_path / name for name in "abc"]
    for path in paths:
        files.unloaded(path, SIZE)
    files.unloaded(paths[0], SIZE)  # again
    assert files.trim(2 * SIZE) == [paths[1]]
    assert files.trim(2 * SIZE) == []
    assert files.trim(0) == [paths[2], paths[0]]


def test_a_file_that_is_in_use_again_is_not_let_go(tmp_path: Path) -> None:
    files = WarmFiles()
    files.unloaded(tmp_path / "a", SIZE)
    files.loaded(tmp_path / "a")
    assert files.trim(0) == []


def test_a_file_that_was_deleted_is_no_error(tmp_path: Path) -> None:
    files = WarmFiles()
    files.unloaded(tmp_path / "gone", SIZE)
    assert files.trim(0) == [tmp_path / "gone"]


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="this system can't say what is in the page cache")
def test_letting_go_empties_the_page_cache_of_the_file(tmp_path: Path) -> None:
    path, other = write(tmp_path / "a"), write(tmp_path / "b")
    if not is_warm(path):
        pytest.skip("this file system keeps nothing in the page cache")
    files = WarmFiles()
    files.unloaded(path, SIZE)
    files.trim(0)
    assert not is_warm(path)
    assert is_warm(other)
