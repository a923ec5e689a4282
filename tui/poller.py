"""The one worker that asks the server how it is: at a steady pace, at once when something happens to a model, and
with longer and longer pauses when nobody answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from appliance.schemas.admin import History, ModelList, RequestList, Status
from appliance.schemas.admin import Snapshot as HistorySnapshot
from appliance.schemas.cache import CacheContents
from appliance.schemas.hardware import MachineStatus
from tui.client import Server, ServerError
from tui.snapshot import Connection, Part, Snapshot

INTERVAL_S = 1.0
# Nothing is drawn more often than this, whatever happens: SSH lines are slow.
MIN_INTERVAL_S = 0.25
MAX_BACKOFF_S = 15.0
# What changes slowly, or costs the server a reading of its machine, is asked for less often.
SLOW_INTERVAL_S = 2.0
SLOW = frozenset({Part.HISTORY, Part.HARDWARE, Part.CACHE})
# The server keeps no more of its history.
HISTORY_S = 600.0


class Poller:
    """``needs`` may be changed at any time; call :meth:`hurry` then."""

    def __init__(self, server: Server, publish: Callable[[Snapshot], None]) -> None:
        """``publish`` is told each new snapshot."""
        self.needs: frozenset[Part] = frozenset()
        self.snapshot = Snapshot(Connection(server.url))
        self._server = server
        self._publish = publish
        self._history: deque[HistorySnapshot] = deque()
        self._hurry = asyncio.Event()
        self._asked_at: dict[Part, float] = {}

    def hurry(self) -> None:
        """The next look is due at once."""
        self._asked_at.clear()
        self._hurry.set()

    async def run(self) -> None:
        """Looks until it is cancelled."""
        watching = asyncio.create_task(self._watch())
        backoff_s = INTERVAL_S
        try:
            while True:
                self._hurry.clear()
                try:
                    self.snapshot = await self._look()
                except ServerError as error:
                    connection = Connection(self._server.url, False, error.message, backoff_s)
                    self.snapshot = replace(self.snapshot, connection=connection)
                    pause_s, backoff_s = backoff_s, min(2 * backoff_s, MAX_BACKOFF_S)
                else:
                    pause_s = backoff_s = INTERVAL_S
                self._publish(self.snapshot)
                await asyncio.sleep(MIN_INTERVAL_S)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), pause_s - MIN_INTERVAL_S)
        finally:
            watching.cancel()

    async def _look(self) -> Snapshot:
        status = await self._server.get("/admin/status", Status)
        found: dict[str, Any] = {"status": status, "connection": Connection(self._server.url, is_first=False)}
        for part in self.needs:
            if self._is_due(part):
                found |= await self._get(part)
        return replace(self.snapshot, **found)

    def _is_due(self, part: Part) -> bool:
        now = asyncio.get_running_loop().time()
        if part in SLOW and now - self._asked_at.get(part, -SLOW_INTERVAL_S) < SLOW_INTERVAL_S:
            return False
        self._asked_at[part] = now
        return True

    async def _get(self, part: Part) -> dict[str, Any]:
        match part:
            case Part.MODELS:
                return {"models": await self._server.get("/admin/models", ModelList)}
            case Part.REQUESTS:
                return {"requests": await self._server.get("/admin/requests", RequestList)}
            case Part.HARDWARE:
                return {"hardware": await self._server.get("/admin/hardware", MachineStatus)}
            case Part.HISTORY:
                return {"history": await self._newer_history()}
            case Part.CACHE:
                return await self._cache()

    async def _newer_history(self) -> tuple[HistorySnapshot, ...]:
        since_s = self._history[-1].time_s if self._history else 0.0
        newer = await self._server.get(f"/admin/history?since_s={since_s!r}", History)
        self._history.extend(newer.snapshots)
        while self._history and self._history[0].time_s < self._history[-1].time_s - HISTORY_S:
            self._history.popleft()
        return tuple(self._history)

    async def _cache(self) -> dict[str, Any]:
        try:
            return {"cache": await self._server.get("/admin/cache", CacheContents), "cache_problem": None}
        except ServerError as error:
            if error.kind != "refused":
                raise
            return {"cache": None, "cache_problem": error.message}  # it is off, or can't be read

    async def _watch(self) -> None:
        """Whatever happens to a model is looked at soon."""
        while True:
            with contextlib.suppress(ServerError):
                async with contextlib.aclosing(self._server.stream("GET", "/admin/events")) as events:
                    async for event in events:
                        if isinstance(event, dict):
                            self._hurry.set()
            await asyncio.sleep(SLOW_INTERVAL_S)
