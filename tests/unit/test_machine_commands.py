"""``appliance doctor`` and ``appliance hardware``: what they print, and their exit status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from appliance.cli import app
from appliance.hardware.cpu import Cpu
from appliance.hardware.disks import Disk
from appliance.hardware.gpus import GPU, GPUProcess, GPUs
from appliance.hardware.machine import Machine
from appliance.hardware.memory_use import GIB
from appliance.hardware.ram import Ram
from appliance.schemas.doctor import Finding

WIDTH = 80
runner = CliRunner(env={"COLUMNS": str(WIDTH)})

MACHINE = Machine(
    cpu=Cpu("Test CPU", "x86_64", 4, 8, 2.5, ("avx", "avx2") * 20, (0.25, 0.75)),
    ram=Ram(32 * GIB, 30 * GIB, 8 * GIB, 8 * GIB, 2 * GIB, 6 * GIB),
    disks=(
        Disk("models_dir", "/models", exists=False, total_bytes=100 * GIB, free_bytes=40 * GIB, file_system="xfs"),
        Disk("state_dir", "/state", exists=False, problem="Permission denied"),
    ),
    gpus=GPUs(
        devices=(
            GPU(
                name="NVIDIA Test 0",
                vendor="nvidia",
                pci_bus_id="0000:41:00.0",
                total_bytes=24 * GIB,
                free_bytes=22 * GIB,
                use_ratio=0.37,
                temperature_c=54,
                power_w=71.5,
                processes=(GPUProcess(4242, 2 * GIB),),
            ),
            GPU("NVIDIA Test 1", "nvidia", pci_bus_id="0000:42:00.0", lost="the GPU must be reset"),
        ),
        driver_version="580.65.06",
        cuda_version="13.0",
    ),
    net_sent_bytes=3 * GIB,
    net_received_bytes=40 << 20,
)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.hardware.machine.probe_machine", lambda folders: MACHINE)


def test_hardware_shows_the_machine_in_80_columns(made_up: None) -> None:
    lines = runner.invoke(app, ["hardware"]).output.splitlines()
    assert max(map(len, lines)) <= WIDTH
    text = "\n".join(lines)
    for wanted in (
        "4 cores, 8 logical processors, a cgroup grants the time of 2.5",
        "50% busy: 25% 75%",
        "a cgroup's limit is 8.0 GiB, 2.0 GiB of it used",
        "/models (not there yet)",
        "40.0 GiB of 100.0 GiB free, xfs",
        "can't be read: Permission denied",
        "network           3.0 GiB sent and 40 MiB received since the start",
        "NVIDIA 580.65.06, CUDA up to 13.0",
        "22.0 GiB of 24.0 GiB free",
        "37% busy, 54 °C, 72 W",
        "pid 4242: 2.0 GiB",
        "lost: the GPU must be reset",
    ):
        assert wanted in text


def test_hardware_as_json_is_the_wire_type(made_up: None) -> None:
    found = json.loads(runner.invoke(app, ["hardware", "--json"]).output)
    assert found["cpu"]["quota"] == 2.5
    assert (found["net_sent_bytes"], found["net_received_bytes"]) == (3 * GIB, 40 << 20)
    assert found["gpus"]["devices"][1]["lost"] == "the GPU must be reset"


def test_hardware_reads_this_machine() -> None:
    result = runner.invoke(app, ["hardware", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.output)["ram"]["total_bytes"] > 0


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    found: list[Finding] = []

    def examine_each(config: object, **options: Any) -> Iterator[Finding]:
        yield from found

    monkeypatch.setattr("appliance.service.doctor.examine.examine_each", examine_each)
    return found


def test_doctor_says_each_finding_with_its_word_and_what_to_do(findings: list[Finding]) -> None:
    findings += [
        Finding(name="processor", status="ok", message="word " * 30),
        Finding(name="GPU", status="warning", message="not used", remedy="build llama.cpp " * 10),
    ]
    result = runner.invoke(app, ["doctor"])
    lines = result.output.splitlines()
    assert result.exit_code == 0
    assert max(map(len, lines)) <= WIDTH
    assert lines[0].startswith("ok       processor     word word")
    assert lines[1].startswith(" " * 23 + "word")
    (warning,) = (number for number, line in enumerate(lines) if line.startswith("warning  GPU           not used"))
    assert lines[warning + 1].startswith(" " * 25 + "-> build llama.cpp")


def test_doctor_ends_with_status_1_if_anything_has_failed(findings: list[Finding]) -> None:
    findings += [Finding(name="a", status="failed", message="bad"), Finding(name="b", status="ok", message="good")]
    result = runner.invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.output) == {
        "status": "failed",
        "findings": [
            {"name": "a", "status": "failed", "message": "bad", "remedy": None},
            {"name": "b", "status": "ok", "message": "good", "remedy": None},
        ],
    }


def test_doctor_measures_where_it_shall_store(findings: list[Finding]) -> None:
    result = runner.invoke(app, ["doctor", "--no-speed", "--set-floor"])
    assert result.exit_code == 1
    assert "--no-speed --set-floor: want one of them" in str(result.exception)
