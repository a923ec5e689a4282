from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec

from appliance.hardware.disks import read_disks
from appliance.hardware.gpus import GPUProbe
from appliance.hardware.machine import MachineProbe, probe_machine
from appliance.hardware.network import Traffic, read_traffic
from appliance.service.machine import machine_status
from tests.fake_nvml import FakeGPU, FakeNVML
from tests.unit.machine_files import MEMINFO, write


def test_a_folder_that_is_not_there_yet_has_the_disk_of_the_one_above(tmp_path: Path) -> None:
    (disk,) = read_disks({"models_dir": tmp_path / "a/b", "image_models_dir": None})
    assert (disk.name, disk.exists, disk.problem) == ("models_dir", False, None)
    assert 0 < disk.free_bytes <= disk.total_bytes


def test_the_file_system_is_that_of_the_longest_mount(tmp_path: Path) -> None:
    store = tmp_path / "my models"
    store.mkdir()
    escaped = str(store.resolve()).replace(" ", "\\040")
    lines = ["1 0 8:1 / / rw - ext4 /dev/a rw", f"2 1 0:5 / {escaped} rw shared:1 - nfs4 server:/x rw", ""]
    root = write(tmp_path / "root", {"proc/self/mountinfo": "\n".join(lines)})
    found = read_disks({"models_dir": store, "state_dir": tmp_path}, root)
    assert [disk.file_system for disk in found] == ["nfs4", "ext4"]


def test_a_disk_that_can_not_be_read_says_why(tmp_path: Path) -> None:
    (disk,) = read_disks({"models_dir": tmp_path / ("x" * 300)})
    assert disk.problem == "File name too long"


def test_a_whole_machine_is_read_and_shown_on_the_wire(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/meminfo": MEMINFO})
    gpus = GPUProbe(FakeNVML(FakeGPU(0)), root=root, apple=lambda: None)
    machine = probe_machine({"models_dir": tmp_path}, gpus=gpus, root=root, sleep=lambda seconds: None)
    status = machine_status(machine)
    assert status.gpus.devices[0].name == "NVIDIA Test 0"
    assert status.model_dump(mode="json") == msgspec.json.decode(msgspec.json.encode(machine))


def test_each_reading_of_a_probe_is_a_new_one(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/meminfo": MEMINFO})
    nvml = FakeNVML(FakeGPU(0))
    probe = MachineProbe({}, gpus=GPUProbe(nvml, root=root, apple=lambda: None), root=root)
    before = probe.read()
    nvml.gpus[0].used_bytes = 5
    assert (before.gpus.devices[0].used_bytes, probe.read().gpus.devices[0].used_bytes) == (0, 5)


class Counted(NamedTuple):
    bytes_sent: int
    bytes_recv: int


def test_the_network_is_all_interfaces_but_loopback() -> None:
    interfaces = {"lo": Counted(1, 1), "lo0": Counted(2, 2), "eth0": Counted(30, 40), "longhaul1": Counted(500, 600)}
    assert read_traffic(lambda: interfaces) == Traffic(530, 640)
    assert read_traffic(dict) == Traffic(0, 0)


def test_a_system_that_does_not_tell_of_its_network_stops_nothing() -> None:
    def hidden() -> NoReturn:
        raise PermissionError

    assert read_traffic(hidden) == Traffic(None, None)


def test_this_machine_s_network_is_read() -> None:
    machine = MachineProbe({}, gpus=GPUProbe(FakeNVML())).read()
    assert machine.net_sent_bytes is not None
    assert machine.net_received_bytes is not None
    assert min(machine.net_sent_bytes, machine.net_received_bytes) >= 0
