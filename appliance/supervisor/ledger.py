"""Who has what memory, and where a model would lie beside the others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence

from appliance import logs
from appliance.errors import ApplianceError
from appliance.hardware.fit import Fit, Room
from appliance.supervisor.budget import Booking, Budget
from appliance.supervisor.host import ModelHost
from appliance.supervisor.page_cache import WarmFiles
from appliance.supervisor.planner import Planner
from appliance.supervisor.spec import ModelSpec

log = logging.getLogger(__name__)

# How long memory may take to be free after its process has ended, and how often that is looked at.
FREEING_S = 5.0
FREEING_POLL_S = 0.1


class Ledger:
    def __init__(self, hosts: Mapping[str, ModelHost], budget: Budget, planner: Planner) -> None:
        self.warm_files = WarmFiles()
        self._hosts = hosts
        self._budget = budget
        self._planner = planner
        self._clock = asyncio.get_running_loop().time

    def rooms(self, freed: Sequence[str] = (), added: Sequence[Booking] = ()) -> tuple[Room, ...]:
        """What is left beside all models but those with the keys ``freed``, and beside what is ``added``."""
        bookings = {
            host.key: Booking(host.memory, host.client.pid if host.client else None, host.info is not None)
            for host in self._hosts.values()
            if host.memory
        }
        gone = [bookings.pop(key) for key in freed if key in bookings]
        return self._budget.rooms([*bookings.values(), *added], gone)

    def place(self, key: str, freed: Sequence[str]) -> Fit:
        """Where a model that was asked for would lie if these had made way. Raises DoesNotFit."""
        return self.fit(self._hosts[key].spec, freed)

    def fit(self, spec: ModelSpec, freed: Sequence[str]) -> Fit:
        """Where any model would lie if these had made way. Raises DoesNotFit."""
        return self._planner.fit(spec, self.rooms((*freed, spec.key)))

    def recheck_all(self) -> None:
        """Forgets why models were refused where that holds no more; nothing is loaded."""
        for host in self._hosts.values():
            if host.state == "stored" and host.error is not None:
                self._recheck(host)

    def _recheck(self, host: ModelHost) -> None:
        others = [other.key for other in self._hosts.values() if other.memory and not other.spec.is_pinned]
        try:
            self.place(host.key, others)
        except ApplianceError as error:
            host.error = error
        else:
            host.error = None

    async def wait_until_free(self, key: str, fit: Fit) -> None:
        """Drivers may give memory back a moment after its process has ended; placed too soon, less of it would fit."""
        deadline = self._clock() + FREEING_S
        while self._clock() < deadline:
            with contextlib.suppress(ApplianceError):
                if _is_as_large(self.place(key, ()), fit):
                    return
            await asyncio.sleep(FREEING_POLL_S)

    async def trim_warm_files(self) -> None:
        """What models leave of the RAM may hold files of those that were unloaded."""
        ram_bytes = self.rooms()[0].free_bytes
        for path in await asyncio.to_thread(self.warm_files.trim, max(0, ram_bytes)):
            log.info(logs.event("file_not_kept_warm", path=path))


def _is_as_large(found: Fit, wanted: Fit) -> bool:
    now, then = found.run, wanted.run
    return now.n_ctx >= then.n_ctx and now.n_gpu_layers >= then.n_gpu_layers and now.n_cpu_moe <= then.n_cpu_moe
