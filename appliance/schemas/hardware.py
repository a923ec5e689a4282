"""The wire types of the machine: what ``GET /admin/hardware`` and ``appliance hardware --json`` give.

They mirror ``appliance.hardware``, which says what each field means.
"""

from __future__ import annotations

from pydantic import BaseModel


class CpuStatus(BaseModel):
    """``use_ratios``: how busy each logical processor was lately, from 0 to 1."""

    model: str
    architecture: str
    physical_cores: int
    logical_cpus: int
    quota: float | None
    instruction_sets: list[str]
    use_ratios: list[float]


class RamStatus(BaseModel):
    """``limit_bytes`` is the least of the machine's memory and all cgroups'; ``room_bytes`` may be allocated yet."""

    total_bytes: int
    available_bytes: int
    limit_bytes: int
    cgroup_limit_bytes: int | None
    used_bytes: int | None
    room_bytes: int


class DiskStatus(BaseModel):
    """Of one of the appliance's folders, by the name of its setting; ``problem`` says why there are no figures."""

    name: str
    path: str
    exists: bool
    total_bytes: int
    free_bytes: int
    file_system: str | None
    is_read_only: bool
    problem: str | None


class GPUProcessStatus(BaseModel):
    pid: int
    used_bytes: int | None


class GPUStatus(BaseModel):
    """What the driver doesn't say is null. ``lost`` says why a GPU that was there is there no more."""

    name: str
    vendor: str
    uuid: str | None
    pci_bus_id: str | None
    total_bytes: int | None
    used_bytes: int | None
    free_bytes: int | None
    use_ratio: float | None
    temperature_c: int | None
    power_w: float | None
    power_limit_w: float | None
    processes: list[GPUProcessStatus] | None
    ecc_errors: int | None
    is_unified: bool
    lost: str | None


class GPUsStatus(BaseModel):
    """``reason`` says why NVML can't be used; ``n_on_bus`` counts NVIDIA's GPUs on the PCI bus."""

    devices: list[GPUStatus]
    driver_version: str | None
    cuda_version: str | None
    reason: str | None
    n_on_bus: int


class MachineStatus(BaseModel):
    """The network's bytes count since the machine's start, loopback left out; None: the system doesn't say."""

    cpu: CpuStatus
    ram: RamStatus
    disks: list[DiskStatus]
    gpus: GPUsStatus
    net_sent_bytes: int | None
    net_received_bytes: int | None
