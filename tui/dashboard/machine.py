"""What the machine does: processor, memory, GPUs, disks and network."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from appliance.schemas.admin import GPUSnapshot
from appliance.schemas.admin import Snapshot as Moment
from appliance.schemas.hardware import DiskStatus, GPUsStatus, GPUStatus, MachineStatus
from tui.dashboard.series import Series, latest, levels, rates
from tui.figures import GIB, size_text
from tui.snapshot import Snapshot
from tui.widgets.gauges import Bar, Cells, Curve, Gauge, Line, Note

# A disk or a memory that is fuller than this is marked.
_FULL_RATIO = 0.95


def machine_lines(snapshot: Snapshot) -> tuple[Line, ...]:
    """Nothing before the machine was read."""
    if (found := snapshot.hardware) is None:
        return ()
    history = snapshot.history
    sent = rates(history, lambda moment: moment.net_sent_bytes)
    received = rates(history, lambda moment: moment.net_received_bytes)
    return (
        *_cpu(found, history),
        *_ram(found, history),
        *map(_disk, found.disks),
        Gauge("Network out", _byte_rate(sent), Curve(sent)),
        Gauge("Network in", _byte_rate(received), Curve(received)),
    )


def gpu_lines(snapshot: Snapshot) -> tuple[Line, ...]:
    """Five for each GPU, or why there is none."""
    if (found := snapshot.hardware) is None:
        return ()
    if not found.gpus.devices:
        return (Note(_no_gpu(found.gpus)),)
    lines: list[Line] = []
    for number, gpu in enumerate(found.gpus.devices):
        lines += _gpu(number, gpu, snapshot.history)
    return tuple(lines)


def _cpu(found: MachineStatus, history: tuple[Moment, ...]) -> tuple[Line, ...]:
    cores = found.cpu.use_ratios
    quota = f", {found.cpu.quota:g} for us" if found.cpu.quota is not None else ""
    now = f"{fmean(cores):.0%} of {len(cores)}{quota}" if cores else "-"
    cells = Cells(tuple(f"{number:>3} {_cell_bar(ratio)} {ratio:>4.0%}" for number, ratio in enumerate(cores)))
    return (Gauge("CPU", now, Curve(levels(history, lambda moment: moment.cpu_ratio), top=1.0)), cells)


def _cell_bar(ratio: float) -> str:
    return f"{'|' * round(5 * ratio):.<5}"


def _ram(found: MachineStatus, history: tuple[Moment, ...]) -> tuple[Line, ...]:
    ram = found.ram
    curve = Curve(levels(history, lambda moment: moment.ram_used_bytes), top=ram.total_bytes)
    in_use = ram.total_bytes - ram.available_bytes
    whole = Gauge("RAM", _of(in_use, ram.total_bytes), curve, is_alarming=_is_full(in_use, ram.total_bytes))
    if ram.cgroup_limit_bytes is None:
        return (whole,)
    used = ram.used_bytes if ram.used_bytes is not None else ram.limit_bytes - ram.room_bytes
    ours = Bar((("#", used / ram.limit_bytes),))
    is_full = ram.room_bytes < (1 - _FULL_RATIO) * ram.limit_bytes
    return (whole, Gauge("RAM, container", _of(used, ram.limit_bytes), ours, is_alarming=is_full))


def _disk(disk: DiskStatus) -> Line:
    label = f"Disk, {disk.name.removesuffix('_dir').replace('_', ' ')}"
    if disk.problem is not None:
        return Gauge(label, disk.problem, is_alarming=True)
    used = disk.total_bytes - disk.free_bytes
    is_full = not disk.is_read_only and _is_full(used, disk.total_bytes)
    chart = Bar((("#", used / disk.total_bytes if disk.total_bytes else 0.0),))
    return Gauge(label, _of(used, disk.total_bytes), chart, is_alarming=is_full)


def _gpu(number: int, gpu: GPUStatus, history: tuple[Moment, ...]) -> tuple[Line, ...]:
    title = Note(f"{number} {gpu.name}", "bold")
    if gpu.lost is not None:
        return (title, Gauge("Lost", gpu.lost, is_alarming=True))
    use = _gpu_levels(history, number, lambda now: now.use_ratio)
    memory = _gpu_levels(history, number, lambda now: now.used_bytes)
    heat = _gpu_levels(history, number, lambda now: now.temperature_c)
    power = _gpu_levels(history, number, lambda now: now.power_w)
    limit = f" of {gpu.power_limit_w:.0f}" if gpu.power_limit_w is not None else ""
    used, total = gpu.used_bytes, gpu.total_bytes
    has_both = used is not None and total is not None
    return (
        title,
        Gauge("Use", "-" if gpu.use_ratio is None else f"{gpu.use_ratio:.0%}", Curve(use, top=1.0)),
        Gauge("Memory", _of(used or 0, total or 0) if has_both else "-", Curve(memory, top=total)),
        Gauge("Temperature", "-" if gpu.temperature_c is None else f"{gpu.temperature_c} °C", Curve(heat, top=100.0)),
        Gauge("Power", "-" if gpu.power_w is None else f"{gpu.power_w:.0f}{limit} W", Curve(power, gpu.power_limit_w)),
        *((Gauge("ECC errors", str(gpu.ecc_errors), is_alarming=True),) if gpu.ecc_errors else ()),
    )


def _gpu_levels(history: tuple[Moment, ...], number: int, figure: Callable[[GPUSnapshot], float | None]) -> Series:
    return levels(history, lambda moment: figure(moment.gpus[number]) if number < len(moment.gpus) else None)


def _no_gpu(gpus: GPUsStatus) -> str:
    reason = f": {gpus.reason}" if gpus.reason else ""
    return f"No GPU can be used{reason}."


def _of(used: int, total: int) -> str:
    ratio = f" {used / total:.0%}" if total else ""
    # One unit for both, where that says as much.
    first = f"{used / GIB:.1f}" if used >= GIB // 10 and total >= GIB else size_text(used)
    return f"{first} of {size_text(total)}{ratio}"


def _is_full(used: int, total: int) -> bool:
    return total > 0 and used / total > _FULL_RATIO


def _byte_rate(series: Series) -> str:
    value = latest(series)
    return "-" if value is None else f"{size_text(round(value))}/s"
