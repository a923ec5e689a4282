"""The whole machine at one moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from appliance.hardware.cgroup import SYSTEM
from appliance.hardware.cpu import Cpu, CpuUse, read_cpu
from appliance.hardware.disks import Disk, read_disks
from appliance.hardware.gpus import GPUProbe, GPUs
from appliance.hardware.network import read_traffic
from appliance.hardware.ram import Ram, read_ram

# How long a single reading watches the processors.
_USE_S = 0.2


class Machine(msgspec.Struct, frozen=True):
    """The network's bytes count since its start, loopback left out; None: the system doesn't say."""

    cpu: Cpu
    ram: Ram
    disks: tuple[Disk, ...]
    gpus: GPUs
    net_sent_bytes: int | None = None
    net_received_bytes: int | None = None


class MachineProbe:
    """Reads the machine again and again; what can't change is read once."""

    def __init__(
        self, folders: Mapping[str, Path | None], *, gpus: GPUProbe | None = None, root: Path = SYSTEM
    ) -> None:
        """``folders`` are those whose disks count, by name. ``root`` is where ``/sys`` and ``/proc`` lie."""
        self.gpus = gpus or GPUProbe(root=root)
        self._folders = dict(folders)
        self._root = root
        self._cpu = read_cpu(root)
        self._use = CpuUse()

    def read(self) -> Machine:
        """Blocks while disks and drivers answer, which takes a few milliseconds on a sound machine."""
        traffic = read_traffic()
        return Machine(
            cpu=msgspec.structs.replace(self._cpu, use_ratios=self._use.ratios()),
            ram=read_ram(self._root),
            disks=read_disks(self._folders, self._root),
            gpus=self.gpus.read(),
            net_sent_bytes=traffic.sent_bytes,
            net_received_bytes=traffic.received_bytes,
        )


def probe_machine(
    folders: Mapping[str, Path | None],
    *,
    gpus: GPUProbe | None = None,
    root: Path = SYSTEM,
    sleep: Callable[[float], None] = time.sleep,
) -> Machine:
    """One reading, which watches the processors for a fifth of a second."""
    probe = MachineProbe(folders, gpus=gpus, root=root)
    sleep(_USE_S)
    try:
        return probe.read()
    finally:
        probe.gpus.close()
