from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from appliance.hardware.estimate import RunShape
from appliance.hardware.memory_use import DeviceMemory
from appliance.state import measured
from appliance.state.measured import MeasuredMemory

SHA = "a" * 64
RUN = RunShape(n_ctx=8192, n_seq_max=65, n_batch=512, tensor_split=(3.0, 2.0))
TAKEN = {"RAM": DeviceMemory(1, 2, 3, 4), "CUDA0": DeviceMemory(5, 6, 7, 8)}


def test_what_was_measured_is_known_after_a_restart(tmp_path: Path) -> None:
    MeasuredMemory(tmp_path / "state", "build-1").put(SHA, RUN, TAKEN)
    assert MeasuredMemory(tmp_path / "state", "build-1").get(SHA, RUN) == TAKEN


@pytest.mark.parametrize("changed", [{"n_ctx": 4096}, {"type_k": "q8_0"}, {"tensor_split": (2.0, 3.0)}])
def test_it_holds_only_for_the_same_settings(tmp_path: Path, changed: dict[str, object]) -> None:
    known = MeasuredMemory(tmp_path, "build-1")
    known.put(SHA, RUN, TAKEN)
    assert known.get(SHA, msgspec.structs.replace(RUN, **changed)) is None


def test_it_holds_only_for_the_same_file_and_build(tmp_path: Path) -> None:
    MeasuredMemory(tmp_path, "build-1").put(SHA, RUN, TAKEN)
    assert MeasuredMemory(tmp_path, "build-2").get(SHA, RUN) is None
    assert MeasuredMemory(tmp_path, "build-1").get("b" * 64, RUN) is None


def test_the_oldest_makes_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "MAX_ENTRIES", 2)
    known = MeasuredMemory(tmp_path, "build-1")
    for sha in ("1", "2", "1", "3"):  # "1" was measured again after "2"
        known.put(sha, RUN, TAKEN)
    assert [MeasuredMemory(tmp_path, "build-1").get(sha, RUN) is not None for sha in "123"] == [True, False, True]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"x": {"RAM": {"weights_bytes": "many"}}}', b"\xff"])
def test_a_damaged_file_is_set_aside_and_written_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / "measured.json").write_bytes(content)
    known = MeasuredMemory(tmp_path, "build-1")
    assert "measurements_damaged" in caplog.text
    assert (tmp_path / "measured.json.damaged").read_bytes() == content
    known.put(SHA, RUN, TAKEN)
    assert MeasuredMemory(tmp_path, "build-1").get(SHA, RUN) == TAKEN


def test_a_folder_that_cant_be_written_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    known = MeasuredMemory(tmp_path / "file", "build-1")
    known.put(SHA, RUN, TAKEN)
    assert "measurement_not_written" in caplog.text
    assert known.get(SHA, RUN) == TAKEN
