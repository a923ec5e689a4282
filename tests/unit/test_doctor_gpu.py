from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.engine.devices import LlamaBuild, Speed
from appliance.hardware.gpus import GPU, GPUs
from appliance.hardware.memory_use import GIB
from appliance.models.subprocesses import JobFailed
from appliance.schemas.doctor import Finding
from tests.made_up_machine import (
    CARD,
    CARD_DEVICE,
    NO_DRIVER,
    WITH_CARD,
    cpu_build,
    cuda_build,
    examined,
    jobs,
    machine,
    named,
    store,
)


@pytest.fixture(autouse=True)
def no_choice_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def gpu_findings(
    folder: Path, gpus: GPUs, build: LlamaBuild | Exception, *, name: str = "GPU", **settings: Any
) -> list[Finding]:
    return named(name, examined(store(folder, **settings), found=machine(gpus=gpus), job=jobs(build)))


def test_a_gpu_that_the_driver_and_llama_see_is_ok(tmp_path: Path) -> None:
    (finding,) = gpu_findings(tmp_path, WITH_CARD, cuda_build(CARD_DEVICE), require_gpu=True)
    assert (finding.status, finding.message) == ("ok", "llama.cpp uses NVIDIA Test 0 as CUDA0")


def test_a_gpu_that_llama_does_not_see_is_a_failure(tmp_path: Path) -> None:
    (finding,) = gpu_findings(tmp_path, WITH_CARD, cuda_build())
    assert finding.status == "failed"
    assert "everything is computed on the processor" in finding.message


def test_a_gpu_that_is_hidden_on_purpose_is_told_with_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (finding,) = gpu_findings(tmp_path, WITH_CARD, cuda_build())
    assert (finding.status, "CUDA_VISIBLE_DEVICES=" in finding.message) == ("failed", True)


def test_one_of_two_gpus_that_llama_does_not_see_is_a_warning(tmp_path: Path) -> None:
    second = msgspec.structs.replace(CARD, name="Old card", pci_bus_id="0000:42:00.0")
    gpus = msgspec.structs.replace(WITH_CARD, devices=(CARD, second))
    (finding,) = gpu_findings(tmp_path, gpus, cuda_build(CARD_DEVICE))
    assert (finding.status, "but not Old card" in finding.message) == ("warning", True)


@pytest.mark.parametrize(("require_gpu", "status"), [(False, "warning"), (True, "failed")])
def test_a_build_without_gpu_code_beside_a_gpu_is_a_warning(tmp_path: Path, require_gpu: bool, status: str) -> None:
    (finding,) = gpu_findings(tmp_path, WITH_CARD, cpu_build(), require_gpu=require_gpu)
    assert finding.status == status
    assert "GGML_CUDA=ON" in (finding.remedy or "")


@pytest.mark.parametrize(("build", "status"), [(cpu_build(), "warning"), (cuda_build(), "failed")])
def test_a_container_that_was_not_given_the_machines_gpu_is_told(
    tmp_path: Path, build: LlamaBuild, status: str
) -> None:
    (finding,) = gpu_findings(tmp_path, GPUs(reason="no NVIDIA driver", n_on_bus=1), build)
    assert finding.status == status
    assert "this machine has a GPU from NVIDIA that can't be reached: no NVIDIA driver" in finding.message
    assert "--gpus all" in (finding.remedy or "")


def test_a_build_for_gpus_without_one_is_a_warning(tmp_path: Path) -> None:
    (finding,) = gpu_findings(tmp_path, NO_DRIVER, cuda_build())
    assert (finding.status, "built for CUDA" in finding.message) == ("warning", True)


def test_a_gpu_that_is_required_and_missing_is_a_failure(tmp_path: Path) -> None:
    (finding,) = gpu_findings(tmp_path, NO_DRIVER, cpu_build(), require_gpu=True)
    assert (finding.status, "require_gpu is set" in finding.message) == ("failed", True)


def test_a_gpu_that_was_lost_is_a_failure_with_the_reason(tmp_path: Path) -> None:
    gone = GPU("NVIDIA Test 0", "nvidia", pci_bus_id="0000:41:00.0", lost="the GPU must be reset")
    lost, used = gpu_findings(tmp_path, GPUs((gone,)), cuda_build())
    assert lost.message == "lost: NVIDIA Test 0 (0000:41:00.0): the GPU must be reset"
    assert (lost.status, used.status) == ("failed", "warning")


def test_a_sick_gpu_is_a_warning(tmp_path: Path) -> None:
    sick = msgspec.structs.replace(CARD, ecc_errors=3, temperature_c=92)
    used, ecc, hot = gpu_findings(tmp_path, GPUs((sick,)), cuda_build(CARD_DEVICE))
    assert (used.status, ecc.status, hot.status) == ("ok", "warning", "warning")
    assert "3 memory errors" in ecc.message
    assert "92 °C" in hot.message


def test_without_llama_the_drivers_gpus_are_told_all_the_same(tmp_path: Path) -> None:
    (finding,) = gpu_findings(tmp_path, WITH_CARD, JobFailed("SIGSEGV ended it"))
    assert "the driver sees NVIDIA Test 0" in finding.message


@pytest.mark.parametrize(
    ("driver", "runtime", "status"),
    [("13.0", "13.0", "ok"), ("13.1", "12.8", "ok"), ("12.4", "12.8", "warning"), ("12.8", "13.0", "failed")],
)
def test_the_driver_must_support_the_cuda_of_the_build(tmp_path: Path, driver: str, runtime: str, status: str) -> None:
    gpus = msgspec.structs.replace(WITH_CARD, cuda_version=driver)
    build = cuda_build(CARD_DEVICE, cuda_runtime=runtime)
    (finding,) = gpu_findings(tmp_path, gpus, build, name="CUDA")
    assert finding.status == status
    assert f"supports CUDA {driver}, llama.cpp's runtime is {runtime}" in finding.message


def test_a_cpu_build_has_no_line_on_cuda(tmp_path: Path) -> None:
    assert gpu_findings(tmp_path, WITH_CARD, cpu_build(), name="CUDA") == []


def test_a_gpu_library_that_can_not_be_loaded_is_a_failure(tmp_path: Path) -> None:
    build = cpu_build(not_loaded={"cuda": "libcudart.so.13: cannot open shared object file"})
    broken, _ = gpu_findings(tmp_path, WITH_CARD, build, name="llama.cpp")
    assert broken.status == "failed"
    assert "libcudart.so.13" in broken.message


def test_a_gpu_whose_library_can_not_be_loaded_is_a_failure(tmp_path: Path) -> None:
    build = cpu_build(not_loaded={"cuda": "libcudart.so.13: cannot open shared object file"})
    (gpu,) = gpu_findings(tmp_path, WITH_CARD, build)
    assert gpu.status == "failed"


def test_a_speed_is_not_measured_where_the_running_appliance_fills_the_gpu(tmp_path: Path) -> None:
    full = msgspec.structs.replace(CARD_DEVICE, free_bytes=100)
    job = jobs(cuda_build(full), Speed(1, 1, "NVIDIA Test 0", 0.1))
    config = store(tmp_path, n_bytes=GIB)
    (finding,) = named("speed", examined(config, found=machine(gpus=WITH_CARD), job=job, serving=True, speed=True))
    assert (finding.status, finding.message) == ("ok", "not measured: the running appliance has the GPU's memory")
