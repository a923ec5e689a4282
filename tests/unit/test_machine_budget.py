"""How much memory models may take: on made-up machines."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest

from appliance.hardware.gpus import GPU, GPUProbe
from appliance.hardware.memory_use import GIB, RAM, DeviceMemory
from appliance.supervisor.budget import Booking
from appliance.supervisor.machine_budget import GPU_RESERVE_BYTES, ComputeDevice, MachineBudget
from tests.fake_nvml import FakeGPU, FakeNVML
from tests.unit.machine_files import write

RESERVE = 1 * GIB  # of machines as large as these
CUDA0 = ComputeDevice("CUDA0", "0000:41:00.0", free_bytes=20 * GIB)


def machine(root: Path, *, total_gib: int = 64, available_gib: int = 64, **files: str) -> Path:
    meminfo = f"MemTotal: {total_gib << 20} kB\nMemFree: 1 kB\nMemAvailable: {available_gib << 20} kB\n"
    return write(root, {"proc/meminfo": meminfo, **files})


def group(root: Path, folder: str, *, limit_gib: int, used_gib: int, file_gib: int = 0) -> None:
    write(
        root / "sys/fs/cgroup" / folder,
        {
            "memory.max": f"{limit_gib * GIB}\n",
            "memory.current": f"{used_gib * GIB}\n",
            "memory.stat": f"active_file {file_gib * GIB}\ninactive_file 0\n",
        },
    )


def budget(
    root: Path, *gpus: FakeGPU, devices: tuple[ComputeDevice, ...] = (), apple: GPU | None = None, **limits: int
) -> MachineBudget:
    probe = GPUProbe(FakeNVML(*gpus), root=root, apple=lambda: apple)
    return MachineBudget(probe, lambda: devices, root=root, **limits)


def booking(*, pid: int | None = None, is_settled: bool = True, **gib: int) -> Booking:
    return Booking({device: DeviceMemory(weights_bytes=n * GIB) for device, n in gib.items()}, pid, is_settled)


def ram_gib(found: MachineBudget, *bookings: Booking, freed: tuple[Booking, ...] = ()) -> float:
    return (found.rooms(bookings, freed)[0].free_bytes + RESERVE) / GIB


def test_models_may_take_what_is_available_but_for_a_reserve(tmp_path: Path) -> None:
    (room,) = budget(machine(tmp_path, available_gib=40)).rooms(())
    assert (room.device, room.free_bytes) == (RAM, 40 * GIB - RESERVE)


def test_a_small_machine_has_a_small_reserve(tmp_path: Path) -> None:
    (room,) = budget(machine(tmp_path, total_gib=2, available_gib=2)).rooms(())
    assert room.free_bytes == 2 * GIB - int(2 * GIB * 0.05)


@pytest.mark.parametrize("is_settled", [True, False])
def test_what_is_booked_is_not_there_for_others(tmp_path: Path, is_settled: bool) -> None:
    assert ram_gib(budget(machine(tmp_path)), booking(RAM=10, is_settled=is_settled)) == 54


def test_what_an_engine_has_is_counted_once(tmp_path: Path) -> None:
    """It was booked with 10 GiB, and 6 of them are seen by the kernel."""
    root = machine(tmp_path, available_gib=58, **{"proc/77/status": f"Name: x\nRssAnon:\t{6 << 20} kB\n"})
    assert ram_gib(budget(root), booking(RAM=10, pid=77)) == 54
    assert ram_gib(budget(root), freed=(booking(RAM=10, pid=77),)) == 64


def test_an_engine_that_has_gone_counts_as_it_was_booked(tmp_path: Path) -> None:
    assert ram_gib(budget(machine(tmp_path)), booking(RAM=10, pid=99)) == 54


def test_the_limit_of_a_version_2_group_counts_and_not_the_host(tmp_path: Path) -> None:
    root = machine(tmp_path, **{"proc/self/cgroup": "0::/box\n"})
    group(root, "box", limit_gib=20, used_gib=9, file_gib=6)
    assert ram_gib(budget(root)) == 17


def test_the_limit_of_a_version_1_group_counts_and_not_the_host(tmp_path: Path) -> None:
    box = "sys/fs/cgroup/memory/box"
    files = {
        "proc/self/cgroup": "4:memory:/box\n",
        f"{box}/memory.limit_in_bytes": f"{20 * GIB}\n",
        f"{box}/memory.usage_in_bytes": f"{5 * GIB}\n",
        f"{box}/memory.stat": f"total_active_file {1 * GIB}\ntotal_inactive_file {1 * GIB}\n",
    }
    assert ram_gib(budget(machine(tmp_path, **files))) == 17


def test_a_fuller_group_further_out_counts_too(tmp_path: Path) -> None:
    root = machine(tmp_path, **{"proc/self/cgroup": "0::/outer/inner\n"})
    group(root, "outer", limit_gib=50, used_gib=48)
    group(root, "outer/inner", limit_gib=20, used_gib=0)
    assert ram_gib(budget(root)) == 2


def test_an_operators_limit_is_for_all_models_together_and_needs_no_reserve(tmp_path: Path) -> None:
    found = budget(machine(tmp_path), ram_limit_bytes=24 * GIB)
    assert found.rooms([booking(RAM=10)])[0].free_bytes == 14 * GIB


def test_an_operators_limit_makes_no_memory(tmp_path: Path) -> None:
    found = budget(machine(tmp_path, available_gib=8), ram_limit_bytes=24 * GIB)
    assert found.rooms(())[0].free_bytes == 8 * GIB - RESERVE


def gpu_gib(found: MachineBudget, *bookings: Booking, freed: tuple[Booking, ...] = ()) -> float:
    return (found.rooms(bookings, freed)[1].free_bytes + GPU_RESERVE_BYTES) / GIB


def test_a_gpu_shows_what_loaded_models_took_but_not_what_one_is_about_to_take(tmp_path: Path) -> None:
    found = budget(machine(tmp_path), FakeGPU(used_bytes=10 * GIB), devices=(CUDA0,))
    assert gpu_gib(found) == 14
    assert gpu_gib(found, booking(CUDA0=8)) == 14
    assert gpu_gib(found, booking(CUDA0=8), booking(CUDA0=3, is_settled=False)) == 11


def test_what_would_be_freed_counts_as_free_on_a_gpu(tmp_path: Path) -> None:
    found = budget(machine(tmp_path), FakeGPU(used_bytes=10 * GIB), devices=(CUDA0,))
    assert gpu_gib(found, freed=(booking(CUDA0=8),)) == 22
    assert gpu_gib(found, freed=(booking(CUDA0=8, is_settled=False),)) == 14


def test_a_gpu_limit_is_for_all_models_together(tmp_path: Path) -> None:
    found = budget(machine(tmp_path), FakeGPU(used_bytes=8 * GIB), devices=(CUDA0,), gpu_limit_bytes=12 * GIB)
    assert found.rooms([booking(CUDA0=8)])[1].free_bytes == 4 * GIB


def test_where_nobody_says_what_a_gpu_has_free_all_that_was_booked_is_taken_off(tmp_path: Path) -> None:
    """As of other makers' GPUs: what was free at the start is all that is known."""
    found = budget(machine(tmp_path), FakeGPU(), devices=(ComputeDevice("Vulkan0", free_bytes=16 * GIB),))
    assert gpu_gib(found, booking(Vulkan0=10)) == 6


def test_a_driver_that_does_not_say_how_much_is_free_is_helped_out(tmp_path: Path) -> None:
    card = FakeGPU()
    card.not_supported = {"nvmlDeviceGetMemoryInfo"}
    assert gpu_gib(budget(machine(tmp_path), card, devices=(CUDA0,)), booking(CUDA0=5)) == 15


def test_a_gpu_whose_driver_comes_later_is_used(tmp_path: Path) -> None:
    nvml = FakeNVML(FakeGPU())
    nvml.init_error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    probe = GPUProbe(nvml, root=tmp_path, apple=lambda: None)
    found = MachineBudget(probe, lambda: (CUDA0,), root=machine(tmp_path))
    assert [room.device for room in found.rooms(())] == [RAM]
    nvml.init_error = None
    assert found.lost_gpus() is None
    assert [room.device for room in found.rooms(())] == [RAM, "CUDA0"]


def test_llama_cpp_is_asked_once_about_gpus_that_it_can_not_use(tmp_path: Path) -> None:
    asked: list[int] = []

    def find() -> tuple[ComputeDevice, ...]:
        asked.append(1)
        return ()

    probe = GPUProbe(FakeNVML(FakeGPU()), root=tmp_path, apple=lambda: None)
    found = MachineBudget(probe, find, root=machine(tmp_path))
    for _ in range(3):
        assert found.lost_gpus() is None
    assert (len(found.rooms(())), asked) == (1, [1])


def test_a_lost_gpu_has_no_room_and_says_why(tmp_path: Path) -> None:
    other = ComputeDevice("CUDA1", "0000:42:00.0")
    cards = FakeGPU(0), FakeGPU(1)
    found = budget(machine(tmp_path), *cards, devices=(CUDA0, other))
    assert [room.device for room in found.rooms(())] == [RAM, "CUDA0", "CUDA1"]
    assert found.lost_gpus() is None
    cards[0].error = pynvml.NVML_ERROR_GPU_IS_LOST
    assert [room.device for room in found.rooms(())] == [RAM, "CUDA1"]
    assert "fallen off the bus" in (found.lost_gpus() or "")
    cards[0].error = None
    assert [room.device for room in found.rooms(())] == [RAM, "CUDA0", "CUDA1"]


def test_a_unified_gpu_and_the_ram_are_one_pool(tmp_path: Path) -> None:
    apple = GPU(name="Apple M4", vendor="apple", is_unified=True)
    found = budget(machine(tmp_path), devices=(ComputeDevice("Metal", is_unified=True),), apple=apple)
    ram, metal = found.rooms([booking(RAM=4, Metal=20, is_settled=False)])
    assert ram.free_bytes == metal.free_bytes == 40 * GIB - RESERVE
    assert metal.is_unified
