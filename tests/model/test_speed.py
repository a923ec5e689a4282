"""The job that measures how fast a model is computed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from appliance.engine.devices import Speed
from appliance.models.store import StoredModel
from appliance.models.subprocesses import JobFailed, run_quick_job

REQUEST = {"n_gpu_layers": 0, "n_threads": 1, "n_prompt": 64, "n_decode": 4}


def test_the_speed_of_the_default_model_is_measured(stored: StoredModel) -> None:
    answer = run_quick_job("speed", {**REQUEST, "model": str(stored.path), "limit_s": 20}, timeout_s=100)
    speed = msgspec.convert(answer, Speed)
    assert speed.prompt_tokens_per_s > 0
    assert speed.decode_tokens_per_s > 0
    assert speed.device == "CPU"


def test_without_time_one_step_of_each_is_measured(stored: StoredModel) -> None:
    answer = run_quick_job("speed", {**REQUEST, "model": str(stored.path), "limit_s": 0}, timeout_s=100)
    assert msgspec.convert(answer, Speed).decode_tokens_per_s > 0


def test_a_file_that_is_no_model_is_an_error_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(JobFailed, match=str(path)):
        run_quick_job("speed", {**REQUEST, "model": str(path), "limit_s": 1}, timeout_s=100)
