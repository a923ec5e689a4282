from __future__ import annotations

from pathlib import Path

import pynvml
import pytest

from appliance.hardware.gpus import GPU, GPUProbe, GPUProcess, GPUs, apple_gpu, nvidia_on_bus
from tests.fake_nvml import GIB, FakeGPU, FakeNVML


def probe(nvml: FakeNVML, root: Path = Path("/nowhere")) -> GPUProbe:
    return GPUProbe(nvml, root=root, apple=lambda: None)


def test_a_machine_without_gpus_has_none_and_that_is_no_error() -> None:
    assert probe(FakeNVML()).read() == GPUs(driver_version="580.65.06", cuda_version="13.0")


def test_what_the_driver_says_of_a_gpu_is_read() -> None:
    (gpu,) = probe(FakeNVML(FakeGPU(used_bytes=2 * GIB), cuda=12040)).read().devices
    assert gpu == GPU(
        name="NVIDIA Test 0",
        vendor="nvidia",
        uuid="GPU-0",
        pci_bus_id="0000:41:00.0",
        total_bytes=24 * GIB,
        used_bytes=2 * GIB,
        free_bytes=22 * GIB,
        use_ratio=0.37,
        temperature_c=54,
        power_w=71.5,
        power_limit_w=350.0,
        processes=(GPUProcess(4242, 2 * GIB),),
        ecc_errors=0,
    )


def test_two_gpus_are_listed_in_the_drivers_order() -> None:
    found = probe(FakeNVML(FakeGPU(0), FakeGPU(1), cuda=12040)).read()
    assert [gpu.pci_bus_id for gpu in found.usable] == ["0000:41:00.0", "0000:42:00.0"]
    assert (found.cuda_version, found.lost, found.missing) == ("12.4", None, None)


def test_what_a_gpu_does_not_support_is_none_and_the_rest_is_there() -> None:
    card = FakeGPU()
    card.not_supported = {"nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetMemoryInfo"}
    (gpu,) = probe(FakeNVML(card)).read().devices
    assert (gpu.ecc_errors, gpu.power_w, gpu.total_bytes, gpu.temperature_c) == (None, None, None, 54)
    assert gpu.lost is None


@pytest.mark.parametrize(
    ("code", "words"),
    [(pynvml.NVML_ERROR_GPU_IS_LOST, "fallen off the bus"), (pynvml.NVML_ERROR_UNKNOWN, "restart it")],
)
def test_a_gpu_that_is_lost_while_running_is_listed_with_the_reason(code: int, words: str) -> None:
    nvml = FakeNVML(FakeGPU(0), FakeGPU(1))
    gpus = probe(nvml)
    gpus.read()
    nvml.gpus[1].error = code
    found = gpus.read()
    assert [gpu.name for gpu in found.usable] == ["NVIDIA Test 0"]
    assert found.lost is not None
    assert found.lost.startswith("NVIDIA Test 1 (0000:42:00.0): ")
    assert words in found.lost
    assert found.missing is None


def test_a_gpu_that_is_lost_from_the_list_is_remembered() -> None:
    nvml = FakeNVML(FakeGPU(0))
    gpus = probe(nvml)
    gpus.read()
    nvml.gpus.clear()
    assert gpus.read().usable == ()
    found = gpus.read()  # NVML, started again, does not know it any more
    assert found.missing == "NVIDIA Test 0 (0000:41:00.0): the NVIDIA driver does not list it any more"


def test_a_gpu_that_comes_back_is_seen_by_a_fresh_start_of_nvml() -> None:
    nvml = FakeNVML(FakeGPU(0))
    gpus = probe(nvml)
    gpus.read()
    nvml.gpus[0].error = pynvml.NVML_ERROR_GPU_IS_LOST
    gpus.read()
    nvml.gpus[0].error = None
    assert gpus.read().lost is None
    assert nvml.n_starts == 2


def test_while_all_is_well_nvml_is_started_once() -> None:
    nvml = FakeNVML(FakeGPU(0))
    gpus = probe(nvml)
    for _ in range(3):
        gpus.read()
    assert nvml.n_starts == 1


def test_nvml_that_vanishes_loses_all_gpus() -> None:
    nvml = FakeNVML(FakeGPU(0))
    gpus = probe(nvml)
    gpus.read()
    nvml.nvmlShutdown()
    nvml.init_error = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    gpus.read()
    found = gpus.read()
    assert found.reason is not None
    assert "different versions" in found.reason
    assert found.lost == f"NVIDIA Test 0 (0000:41:00.0): {found.reason}"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no NVIDIA driver"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "not loaded"),
        (pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, "too old"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "different versions"),
        (pynvml.NVML_ERROR_IRQ_ISSUE, "NVML says: Interrupt Request Issue"),
    ],
)
def test_why_nvml_can_not_be_used_is_said(code: int, words: str) -> None:
    nvml = FakeNVML(FakeGPU(0))
    nvml.init_error = code
    found = probe(nvml).read()
    assert found.devices == ()
    assert found.reason is not None
    assert words in found.reason
    assert found.missing == found.reason


def test_gpus_on_the_bus_are_counted_also_where_none_is_given(tmp_path: Path) -> None:
    for address, vendor, kind in (
        ("0000:41:00.0", "0x10de", "0x030200"),
        ("0000:41:00.1", "0x10de", "0x040300"),  # its sound
        ("0000:01:00.0", "0x1002", "0x030000"),
    ):
        folder = tmp_path / "sys/bus/pci/devices" / address
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{kind}\n")
    assert nvidia_on_bus(tmp_path) == 1
    assert probe(FakeNVML(), tmp_path).read().n_on_bus == 1


def test_an_apple_gpu_is_listed_beside_others() -> None:
    apple = GPU("Apple M4", "apple", total_bytes=32 * GIB, is_unified=True)
    nvml = FakeNVML()
    nvml.init_error = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    found = GPUProbe(nvml, root=Path("/nowhere"), apple=lambda: apple).read()
    assert found.usable == (apple,)
    assert found.missing is None


def test_other_machines_have_no_apple_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    assert apple_gpu() is None
