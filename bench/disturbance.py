"""How much of the processors others took while something was measured: other machines, and other programs here."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

STAT = Path("/proc/stat")
# user, nice, system, idle, iowait, irq, softirq, steal; guest time, behind them, is in user already.
_N_KINDS = 8
_BUSY = slice(0, 3)
_STEAL = 7
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class CpuTimes(msgspec.Struct, frozen=True):
    """Of all processors since the machine's start, in jiffies. ``busy`` is the time of programs."""

    total: int
    busy: int
    steal: int


class Disturbance(msgspec.Struct, frozen=True):
    """Shares of all processors' time: what the hypervisor gave to others, and what programs that aren't ours used."""

    steal_ratio: float = 0.0
    others_ratio: float = 0.0

    def worst(self, other: Disturbance) -> Disturbance:
        return Disturbance(
            max(self.steal_ratio, other.steal_ratio),
            max(self.others_ratio, other.others_ratio),
        )

    def exceeds(self, limit: Disturbance) -> bool:
        return self.steal_ratio > limit.steal_ratio or self.others_ratio > limit.others_ratio


def parse_cpu_times(stat: str) -> CpuTimes:
    """From the text of ``/proc/stat``. Kernels that count no steal have none."""
    fields = [int(word) for word in stat.splitlines()[0].split()[1 : 1 + _N_KINDS]]
    return CpuTimes(sum(fields), sum(fields[_BUSY]), fields[_STEAL] if len(fields) > _STEAL else 0)


def between(before: CpuTimes, after: CpuTimes, own_s: float) -> Disturbance:
    """``own_s``: processor time that our processes used in between, in seconds."""
    total = after.total - before.total
    if total <= 0:
        return Disturbance()
    others = after.busy - before.busy - own_s * _TICKS_PER_S
    return Disturbance((after.steal - before.steal) / total, max(0.0, others / total))


def own_cpu_s() -> float:
    """Processor time of this process and of all below it, those that have ended included, in seconds."""
    times = os.times()
    used_s = times.user + times.system + times.children_user + times.children_system
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            used = process.cpu_times()
            used_s += used.user + used.system + used.children_user + used.children_system
    return used_s


class Meter:
    """Counts from its making on."""

    def __init__(self, path: Path = STAT, own: Callable[[], float] = own_cpu_s) -> None:
        self._path = path
        self._own = own
        self._own_before_s = own()
        self._before = parse_cpu_times(path.read_text())

    def read(self) -> Disturbance:
        return between(self._before, parse_cpu_times(self._path.read_text()), self._own() - self._own_before_s)
