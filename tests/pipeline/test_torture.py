"""Every stage of a build is killed at random moments; started again, it ends in the same bytes.

Three moments a stage, or as many as ``TORTURE_POINTS`` says (`make torture`).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.pipeline.hub import LoopbackHub
from tests.pipeline.workplace import NAME, REPO, Workplace

N_POINTS = int(os.environ.get("TORTURE_POINTS", "3"))

pytestmark = [pytest.mark.model, pytest.mark.timeout(600 * N_POINTS)]

# What a stage says when it begins, what it leaves below .work, and about how many seconds it takes.
STAGES = {
    "fetching": ("sources/*/*/model.safetensors", 1.0),
    "converting": ("made/*.gguf", 10.0),
    "quantizing": ("made/*.gguf", 1.5),
    "measuring": ("made/*.json", 13.0),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_killed_and_started_again_ends_in_the_same_bytes(
    built: Workplace, real_hub: LoopbackHub, tmp_path: Path, stage: str
) -> None:
    left, seconds = STAGES[stage]
    place = Workplace(tmp_path / "place", real_hub)
    place.run("add", REPO)
    pinned = place.lock_path.read_text()
    work = place.models / ".work"
    if stage != "fetching":
        for folder in ("sources", "made"):  # what the stages before have left
            shutil.rmtree(work / folder)
            shutil.copytree(built.models / ".work" / folder, work / folder, copy_function=os.link)
    (content,) = built.published().values()
    chance = random.Random(stage)
    n_killed = 0
    for _ in range(N_POINTS):
        place.lock_path.write_text(pinned)
        shutil.rmtree(place.models / NAME, ignore_errors=True)
        results = sorted(work.glob(left), key=lambda path: path.stat().st_size)
        for path in results[:1] if stage == "quantizing" else results:
            path.unlink()
        n_killed += killed(place, stage, chance.uniform(0, seconds))
        assert all(found == content for found in place.published().values()), "it has its name and isn't whole"
    assert n_killed, "it was always quicker"
    place.run("build", NAME)
    assert list(place.published().values()) == [content]
    assert place.lock_path.read_text() == built.lock_path.read_text()
    assert not list(place.models.rglob("*.part"))


def killed(place: Workplace, stage: str, after_s: float) -> bool:
    """Whether a build was killed so long after it had come to a stage; false if it had ended by then."""
    process = place.start("build", NAME, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if line.startswith(stage):
                break
        time.sleep(after_s)  # the moment is what is tried
        was_running = process.poll() is None
        if was_running:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return was_running
