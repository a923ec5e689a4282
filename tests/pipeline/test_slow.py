"""Transfers that trickle: they may take as long as they want, and say how far they are; silence ends a connection."""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
from pathlib import Path

import httpx
import pytest

from appliance.cli.progress import LineReport
from appliance.models.hub import Hub
from appliance.models.lock import HubSource, SourceFile
from appliance.models.sources import Sources
from appliance.models.workshop import Workshop
from tests.pipeline.hub import LoopbackHub, Repo

DATA = random.Random(2).randbytes(300_000)


@pytest.fixture
def source(hub: LoopbackHub) -> HubSource:
    repo = hub.repos["org/model"] = Repo({"model.safetensors": DATA})
    return HubSource(
        "org/model",
        repo.commit,
        files=(SourceFile("model.safetensors", hashlib.sha256(DATA).hexdigest(), len(DATA)),),
    )


def fetch(source: HubSource, folder: Path, seconds_between_looks: float) -> bytes:
    clock = itertools.count(step=seconds_between_looks)
    workshop = Workshop(folder)
    sources = Sources(workshop, lambda: Hub(workshop.hub_home), LineReport(lambda: float(next(clock))))
    with workshop.entered():
        return (sources.fetch(source) / "model.safetensors").read_bytes()


def ranges(hub: LoopbackHub) -> list[str | None]:
    return [asked for method, path, asked in hub.requests if method == "GET" and path.endswith(".safetensors")]


def test_a_transfer_that_trickles_comes_whole_and_says_how_far_it_is(
    hub: LoopbackHub,
    source: HubSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("appliance.models.download.TIMEOUT", httpx.Timeout(1.0))
    hub.faults.trickle = (10_000, 0.05)  # 1.5 seconds in all
    assert fetch(source, tmp_path / "models", 5.0) == DATA
    assert ranges(hub) == [None], "it was taken for dead"
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "fetching org/model (300.0 kB)"
    assert len(lines) >= 5
    assert lines[0].startswith("  fetching org/model: ")
    assert all(" % at " in line and line.endswith(" s left") for line in lines)
    percents = [int(line.split(": ")[1].split(" %")[0]) for line in lines]
    assert percents == sorted(percents)
    assert percents[-1] > 80


def test_a_transfer_that_falls_silent_is_taken_up_where_it_was(
    hub: LoopbackHub, source: HubSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.models.download.TIMEOUT", httpx.Timeout(0.5))
    monkeypatch.setattr("appliance.models.download.FIRST_PAUSE_S", 0)
    hub.faults.cut_after, hub.faults.n_cuts, hub.faults.held = 70_000, 1, threading.Event()
    assert fetch(source, tmp_path / "models", 0.0) == DATA
    assert ranges(hub) == [None, "bytes=70000-"]
