from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec
import pytest

from appliance.engine.backend import LoadCancelled
from appliance.engine.llama.read_ahead import CHUNK_BYTES, read_ahead
from appliance.hardware.ram import read_ram

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux reads ahead as it is told")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Of two pieces and a bit, not in the page cache."""
    path = tmp_path / "model"
    path.write_bytes(b"x" * (2 * CHUNK_BYTES + 5))
    with path.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


def test_a_file_is_read_in_pieces_that_are_seen(file: Path) -> None:
    seen: list[float] = []

    def note(ratio: float) -> bool:
        seen.append(round(ratio, 3))
        return True

    assert read_ahead(str(file), note)
    assert seen == [0.0, 0.5, 1.0]


def test_a_file_that_is_in_the_page_cache_is_not_read_again(file: Path) -> None:
    assert read_ahead(str(file), lambda ratio: True)
    with file.open("rb") as opened:
        try:
            os.preadv(opened.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            pytest.fail("it is not there")
        except OSError:
            pytest.skip("this file system doesn't say what is in the page cache")
    assert not read_ahead(str(file), lambda ratio: False)


def test_reading_stops_when_the_model_is_no_longer_wanted(file: Path) -> None:
    with pytest.raises(LoadCancelled):
        read_ahead(str(file), lambda ratio: ratio < 0.3)


def test_a_file_that_does_not_fit_is_left_to_llama_cpp(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ram = msgspec.structs.replace(read_ram(), room_bytes=2 * CHUNK_BYTES)
    monkeypatch.setattr("appliance.engine.llama.read_ahead.read_ram", lambda: ram)
    assert not read_ahead(str(file), lambda ratio: False)


@pytest.mark.parametrize("kind", ["absent", "empty", "folder"])
def test_what_is_no_model_is_llama_cpps_to_report(tmp_path: Path, kind: str) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    assert not read_ahead(str(tmp_path / kind), lambda ratio: False)
