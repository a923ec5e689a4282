"""Looks after engines that can't say themselves what is wrong with them: wedged ones, and those whose GPU is gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable

from appliance import logs
from appliance.engine.client import EngineClient
from appliance.engine.messages import Accepted, Embed, Embedded, Event, Failed, Finished, Submit
from appliance.errors import ApplianceError, GPUMissing
from appliance.supervisor.budget import Budget
from appliance.supervisor.host import ModelHost

log = logging.getLogger(__name__)

# An engine is wedged if a step takes so many times as long as the longest one that it has finished.
MAX_STEP_RATIO = 20.0
# A load that says nothing for so long has come to a stop.
LOAD_STALL_S = 120.0
GPU_POLL_S = 3.0
MAX_PERIOD_S = 1.0


class Guard:
    def __init__(
        self,
        hosts: dict[str, ModelHost],
        budget: Budget,
        *,
        wake: Callable[[], None],
        on_wedged: Callable[[ModelHost], None],
        wedged_after_s: float,
    ) -> None:
        """``wake`` is called when a GPU has come back, and models may fit again; ``on_wedged`` before one is ended."""
        self._hosts = hosts
        self._budget = budget
        self._wake = wake
        self._on_wedged = on_wedged
        self._wedged_after_s = wedged_after_s
        self._lost: str | None = None
        self._canaries: set[asyncio.Task[None]] = set()

    async def watch_engines(self) -> None:
        period_s = min(MAX_PERIOD_S, self._wedged_after_s / 4)
        while True:
            await asyncio.sleep(period_s)
            self._end_wedged()

    async def watch_gpus(self) -> None:
        while True:
            await asyncio.sleep(GPU_POLL_S)
            # The driver may take its time to answer, above all when something is wrong with a GPU.
            self._take_gpu_state(await asyncio.to_thread(self._budget.lost_gpus))

    def _end_wedged(self) -> None:
        for host in self._hosts.values():
            client = host.client
            if client is None:
                continue
            limit_s = LOAD_STALL_S
            if host.state != "loading":
                longest_s = client.load.longest_step_s if client.load is not None else 0.0
                limit_s = max(self._wedged_after_s, MAX_STEP_RATIO * longest_s)
            if client.silent_s > limit_s:
                log.error(logs.event("engine_wedged", model=host.key, pid=client.pid, silent_s=client.silent_s))
                self._on_wedged(host)
                client.kill(f"was ended since it had finished no step for {client.silent_s:.0f} s")

    def _take_gpu_state(self, lost: str | None) -> None:
        if lost is not None and self._lost is None:
            log.error(logs.event("gpu_lost", reason=lost))
        for host in self._hosts.values():
            if host.state != "ready" or host.client is None or host.info is None or not host.info.n_gpu_layers:
                continue
            if lost is not None and host.spec.require_gpu:
                host.is_wanted = True
                host.fail(GPUMissing(f"{host.spec.stored.name} wants a GPU (require_gpu): {lost}"), retry_s=GPU_POLL_S)
            elif lost is not None or self._lost is not None:
                # It may work, or hang at the next request: one token tells.
                canary = asyncio.create_task(self._try_out(host, host.client))
                self._canaries.add(canary)
                canary.add_done_callback(self._canaries.discard)
        if lost is None and self._lost is not None:
            log.warning(logs.event("gpu_back"))
            self._wake()
        self._lost = lost

    async def _try_out(self, host: ModelHost, client: EngineClient) -> None:
        if host.n_users:
            return  # its work tells
        request_id = f"canary-{uuid.uuid4().hex}"
        canary: Submit | Embed = Submit(request_id, tokens=(0,), max_tokens=1)
        if host.spec.wanted.is_embedding:
            canary = Embed(request_id, ((0,),))
        reason = f"it gave no token within {self._wedged_after_s:g} s after a GPU was lost"
        with contextlib.suppress(ApplianceError, TimeoutError):
            async with asyncio.timeout(self._wedged_after_s), client.submit(canary) as stream:
                last: Event = Accepted(request_id, 1)
                while not isinstance(last, Finished | Embedded | Failed):
                    last = (await stream.next_events())[-1]
                if not isinstance(last, Failed):
                    return
                reason = f"{last.message}, after a GPU was lost"
        client.kill(f"was ended since {reason}")
