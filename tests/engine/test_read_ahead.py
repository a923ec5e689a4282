from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.engine.backend import LoadCancelled
from appliance.engine.llama.read_ahead import CHUNK_BYTES, read_ahead


def uncached(path: Path) -> Path:
    """A file of five chunks that is not in the page cache."""
    path.write_bytes(os.urandom(5 * CHUNK_BYTES))
    with path.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    if not hasattr(os, "RWF_NOWAIT"):
        pytest.skip("this system doesn't say what is in the page cache")
    with uncached(tmp_path / "other").open("rb") as other:
        try:  # to ask for a byte brings it: not of the file that is tested
            os.preadv(other.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            return uncached(tmp_path / "model")
        except OSError:
            pass
    pytest.skip("this file system doesn't say what is in the page cache")


def test_what_is_not_in_the_page_cache_is_read_once_and_seen(file: Path) -> None:
    seen: list[float] = []

    def note(ratio: float) -> bool:
        seen.append(ratio)
        return True

    assert read_ahead(str(file), note)
    assert seen == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert not read_ahead(str(file), note)
    assert len(seen) == 5


def test_reading_stops_when_the_model_is_no_longer_wanted(file: Path) -> None:
    with pytest.raises(LoadCancelled):
        read_ahead(str(file), lambda ratio: ratio < 0.3)


def test_a_file_that_does_not_fit_is_left_to_the_system(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 1000

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    assert not read_ahead(str(file), lambda ratio: False)


def test_a_file_that_is_not_there_is_llama_cpps_to_report(tmp_path: Path) -> None:
    assert not read_ahead(str(tmp_path / "none"), lambda ratio: False)


def test_a_folder_is_llama_cpps_to_report(tmp_path: Path) -> None:
    assert not read_ahead(str(tmp_path), lambda ratio: False)
