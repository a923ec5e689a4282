"""``appliance hardware``: what this machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from appliance.hardware.cpu import Cpu
    from appliance.hardware.disks import Disk
    from appliance.hardware.gpus import GPU, GPUs
    from appliance.hardware.machine import Machine
    from appliance.hardware.ram import Ram


def hardware(as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False) -> None:
    """Show this machine's processor, memory, disks and GPUs, and the limits that hold here. Needs no server."""
    from appliance import settings
    from appliance.hardware.machine import probe_machine
    from appliance.service.machine import folders, machine_status

    machine = probe_machine(folders(settings.load()))
    if as_json:
        typer.echo(machine_status(machine).model_dump_json(indent=1))
        return
    _show_cpu(machine.cpu)
    _show_ram(machine.ram)
    for disk in machine.disks:
        _show_disk(disk)
    _show_network(machine)
    _show_gpus(machine.gpus)


def _show_cpu(cpu: Cpu) -> None:
    quota = f", a cgroup grants the time of {cpu.quota:g}" if cpu.quota is not None else ""
    _line("processor", f"{cpu.model} ({cpu.architecture})")
    _line("", f"{cpu.physical_cores} cores, {cpu.logical_cpus} logical processors{quota}")
    if cpu.use_ratios:
        busy = sum(cpu.use_ratios) / len(cpu.use_ratios)
        _line("", f"{busy:.0%} busy: " + " ".join(f"{ratio:.0%}" for ratio in cpu.use_ratios))
    if cpu.instruction_sets:
        _line("", " ".join(cpu.instruction_sets))


def _show_ram(ram: Ram) -> None:
    from appliance.hardware.memory_use import format_bytes

    _line("RAM", f"{format_bytes(ram.total_bytes)}, {format_bytes(ram.available_bytes)} available")
    if ram.cgroup_limit_bytes is not None:
        used = f", {format_bytes(ram.used_bytes)} of it used" if ram.used_bytes is not None else ""
        _line("", f"a cgroup's limit is {format_bytes(ram.cgroup_limit_bytes)}{used}")
    _line("", f"{format_bytes(ram.room_bytes)} can be allocated yet")


def _show_disk(disk: Disk) -> None:
    from appliance.hardware.memory_use import format_bytes

    _line(disk.name, disk.path + ("" if disk.exists else " (not there yet)"))
    if disk.problem is not None:
        _line("", f"can't be read: {disk.problem}")
        return
    kind = f", {disk.file_system}" if disk.file_system else ""
    kind += ", read only" if disk.is_read_only else ""
    _line("", f"{format_bytes(disk.free_bytes)} of {format_bytes(disk.total_bytes)} free{kind}")


def _show_network(machine: Machine) -> None:
    from appliance.hardware.memory_use import format_bytes

    sent, received = machine.net_sent_bytes, machine.net_received_bytes
    if sent is not None and received is not None:
        _line("network", f"{format_bytes(sent)} sent and {format_bytes(received)} received since the start")


def _show_gpus(gpus: GPUs) -> None:
    if gpus.driver_version is not None:
        _line("driver", f"NVIDIA {gpus.driver_version}, CUDA up to {gpus.cuda_version or 'unknown'}")
    for gpu in gpus.devices:
        _show_gpu(gpu)
    if gpus.missing is not None and not gpus.devices:
        _line("GPU", f"none: {gpus.missing}")
    if gpus.n_on_bus and not gpus.usable:
        _line("", f"but {gpus.n_on_bus} from NVIDIA on the PCI bus: `appliance doctor` says what to do")


def _show_gpu(gpu: GPU) -> None:
    from appliance.hardware.memory_use import format_bytes

    _line("GPU", gpu.name + (f" ({gpu.pci_bus_id})" if gpu.pci_bus_id else ""))
    if gpu.lost is not None:
        _line("", f"lost: {gpu.lost}")
        return
    if gpu.total_bytes is not None:
        free = f"{format_bytes(gpu.free_bytes)} of " if gpu.free_bytes is not None else ""
        _line(
            "",
            f"{free}{format_bytes(gpu.total_bytes)}{' free' if free else ''}"
            + (", shared with the processor" if gpu.is_unified else ""),
        )
    figures = [
        f"{gpu.use_ratio:.0%} busy" if gpu.use_ratio is not None else None,
        f"{gpu.temperature_c} °C" if gpu.temperature_c is not None else None,
        f"{gpu.power_w:.0f} W" if gpu.power_w is not None else None,
        f"of at most {gpu.power_limit_w:.0f} W" if gpu.power_limit_w is not None else None,
        f"{gpu.ecc_errors} uncorrected memory errors" if gpu.ecc_errors is not None else None,
    ]
    if any(figures):
        _line("", ", ".join(figure for figure in figures if figure))
    for process in gpu.processes or ():
        used = format_bytes(process.used_bytes) if process.used_bytes is not None else "memory unknown"
        _line("", f"pid {process.pid}: {used}")


def _line(name: str, text: str) -> None:
    import shutil
    import textwrap

    width = max(60, shutil.get_terminal_size().columns) - 18
    for number, line in enumerate(textwrap.wrap(text, width, break_on_hyphens=False) or [""]):
        typer.echo(f"{name if number == 0 else '':17} {line}")
