"""Keeps the model's engine process running: waits for it to load, and starts it again when it has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Literal

from appliance import logs
from appliance.engine.client import EngineClient, EngineProcess
from appliance.engine.messages import Load, Ready
from appliance.errors import ApplianceError, EngineUnavailable, QueueFull

log = logging.getLogger(__name__)

State = Literal["loading", "ready", "draining", "failed", "stopped"]

# An engine that had served is started again at once; one that ends again soon, or can't load, later and later.
BACKOFF_S = (1.0, 2.0, 5.0, 10.0, 30.0)
STABLE_AFTER_S = 60.0
LOAD_WAIT_S = 120.0
STOP_GRACE_S = 5.0


class Supervisor:
    """One model's engine. ``spawn`` starts a process for it; ``first`` is the one that loads already."""

    def __init__(self, spawn: Callable[[], EngineProcess], first: EngineProcess, *, max_open: int) -> None:
        """``max_open``: how many requests may run and wait together."""
        self.state: State = "loading"
        self.error: ApplianceError | None = None
        self.info: Ready | None = None
        self._spawn = spawn
        self._max_open = max_open
        self._engine = EngineClient(first, max_open=max_open)
        self._n_waiting = 0
        self._changed = asyncio.Event()
        self._watching = asyncio.create_task(self._watch())

    async def engine(self) -> EngineClient:
        """The engine, once it is ready.

        Raises:
            EngineUnavailable: it isn't within two minutes, can't load its model, or is being stopped.
            QueueFull: as many requests as are allowed wait for it already.
        """
        if self._n_waiting >= self._max_open:
            raise QueueFull(f"{self._max_open} requests wait for the model to load; try again later", retry_after_s=5)
        self._n_waiting += 1
        try:
            async with asyncio.timeout(LOAD_WAIT_S):
                while self.state == "loading" or (self.state == "ready" and self._engine.has_ended):
                    await self._changed.wait()
        except TimeoutError:
            raise EngineUnavailable("the model is still loading; try again later", retry_after_s=30) from None
        finally:
            self._n_waiting -= 1
        if self.state == "failed":
            raise EngineUnavailable(f"the model can't be loaded: {self.error}", retry_after_s=30)
        if self.state in ("draining", "stopped"):
            raise EngineUnavailable("the server is stopping", retry_after_s=30)
        return self._engine

    @property
    def load(self) -> Load | None:
        """How full the engine is; None until it has said so."""
        return self._engine.load

    @property
    def pid(self) -> int:
        return self._engine.pid

    async def wait_until_loaded(self) -> Ready:
        """Waits for the first load to end. Raises the error that it failed with."""
        while self.state == "loading":
            await self._changed.wait()
        if self.error is not None:
            raise self.error
        if self.info is None:
            raise EngineUnavailable("the server was stopped before the model was loaded")
        return self.info

    def drain(self) -> None:
        """Gives the engine to no more requests; those that have it go on."""
        self._set("draining")

    async def stop(self) -> None:
        """Ends the engine; requests that are still open fail."""
        self._set("stopped")
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        await self._engine.stop(STOP_GRACE_S)

    def _set(self, state: State) -> None:
        if self.state == "stopped" or (self.state == "draining" and state != "stopped"):
            return  # what the engine does no longer counts
        self.state = state
        self._changed.set()
        self._changed = asyncio.Event()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        n_ends_in_a_row = 0
        while True:
            ready_at = await self._run_to_its_end()
            if ready_at is not None and loop.time() - ready_at > STABLE_AFTER_S:
                n_ends_in_a_row = 0
            n_ends_in_a_row += 1
            if ready_at is None or n_ends_in_a_row > 1:
                await asyncio.sleep(BACKOFF_S[min(n_ends_in_a_row, len(BACKOFF_S)) - 1])
            try:
                process = self._spawn()
            except OSError as error:
                self.error = EngineUnavailable(f"no engine process can be started: {error.strerror}")
                log.error(logs.event("engine_not_started", reason=error))
                self._set("failed")
                continue
            self._engine = EngineClient(process, max_open=self._max_open)
            log.warning(logs.event("engine_restarted", pid=self._engine.pid))
            self._set("loading")

    async def _run_to_its_end(self) -> float | None:
        """Follows the engine until it has ended; when it was ready, None if it never was."""
        if self._engine.has_ended:
            return None
        try:
            self.info = await self._engine.ready()
        except ApplianceError as error:
            self.error = error
            log.error(logs.event("engine_load_failed", pid=self._engine.pid, reason=error))
            await self._engine.ended()
            self._set("failed")
            return None
        self.error = None
        ready_at = asyncio.get_running_loop().time()
        self._set("ready")
        await self._engine.ended()
        log.error(logs.event("engine_ended", pid=self._engine.pid, reason=self._engine.exit_reason()))
        self._set("loading")
        return ready_at
