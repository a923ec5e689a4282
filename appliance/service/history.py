"""What the server and its machine did in the last minutes: a ring of snapshots for whoever wants curves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from statistics import fmean

from appliance.engine.messages import Load
from appliance.hardware.machine import Machine
from appliance.schemas.admin import GPUSnapshot, History, Snapshot
from appliance.service.activity import Activity
from appliance.service.status import latencies
from appliance.supervisor.supervisor import Supervisor

log = logging.getLogger(__name__)

INTERVAL_S = 2.0
KEPT_S = 600.0


class _Totals:
    """Tokens of all engines since the start, also of those that have ended since."""

    def __init__(self) -> None:
        self.n_prompt = self.n_completion = self.n_cached = 0
        self._seen: dict[int, Load] = {}

    def take(self, loads: dict[int, Load]) -> None:
        """``loads``: of the engines that there are, by their pids, which are used again for others later."""
        for pid, now in loads.items():
            before = self._seen.get(pid, Load())
            self.n_prompt += now.n_prompt_computed - before.n_prompt_computed
            self.n_completion += now.n_sampled - before.n_sampled
            self.n_cached += now.n_prompt_reused - before.n_prompt_reused
        self._seen = loads


class HistoryKeeper:
    def __init__(self, supervisor: Supervisor, activity: Activity, machine: Callable[[], Machine]) -> None:
        """``machine`` is called on a thread: a driver may take its time to answer."""
        self._supervisor = supervisor
        self._activity = activity
        self._machine = machine
        self._totals = _Totals()
        self._ring: deque[Snapshot] = deque(maxlen=int(KEPT_S / INTERVAL_S))

    async def keep(self) -> None:
        """Takes snapshots until it is cancelled."""
        while True:
            try:
                self._ring.append(self._snapshot(await asyncio.to_thread(self._machine)))
            except Exception:  # a driver or a disk that answers oddly once must not end the curves
                log.exception("snapshot_failed")
            await asyncio.sleep(INTERVAL_S)

    def latest(self) -> Snapshot | None:
        """None: none was taken yet."""
        return self._ring[-1] if self._ring else None

    def history(self, since_s: float = 0.0) -> History:
        """The snapshots that were taken after ``since_s`` of the wall clock."""
        return History(interval_s=INTERVAL_S, snapshots=[s for s in self._ring if s.time_s > since_s])

    def _snapshot(self, machine: Machine) -> Snapshot:
        loads = [host.load_info for host in self._supervisor.hosts.values() if host.load_info is not None]
        figures = latencies(self._activity)
        counts = self._activity.metrics.response_cache.total()
        clients = [host.client for host in self._supervisor.hosts.values() if host.client is not None]
        self._totals.take({client.pid: client.load for client in clients if client.load is not None})
        return Snapshot(
            time_s=time.time(),
            requests_running=sum(load.n_running for load in loads),
            requests_waiting=sum(load.n_waiting for load in loads)
            + sum(host.n_waiting for host in self._supervisor.hosts.values()),
            prompt_tokens=self._totals.n_prompt,
            completion_tokens=self._totals.n_completion,
            cached_tokens=self._totals.n_cached,
            response_cache_hits=counts.n_hits,
            response_cache_joins=counts.n_joins,
            response_cache_misses=counts.n_misses,
            kv_used_tokens=sum(load.n_cells_used for load in loads),
            kv_total_tokens=sum(load.n_cells for load in loads),
            ttft_p50_s=figures.ttft_s.p50 if figures.ttft_s else None,
            tpot_p50_s=figures.tpot_s.p50 if figures.tpot_s else None,
            cpu_ratio=fmean(machine.cpu.use_ratios) if machine.cpu.use_ratios else 0.0,
            ram_used_bytes=machine.ram.total_bytes - machine.ram.available_bytes,
            net_sent_bytes=machine.net_sent_bytes,
            net_received_bytes=machine.net_received_bytes,
            gpus=[
                GPUSnapshot(
                    use_ratio=gpu.use_ratio,
                    used_bytes=gpu.used_bytes,
                    temperature_c=gpu.temperature_c,
                    power_w=gpu.power_w,
                )
                for gpu in machine.gpus.devices
            ],
        )
