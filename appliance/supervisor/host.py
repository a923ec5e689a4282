"""One model and its engine process, if it has one: who waits for it, who uses it, and what became of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Literal

from appliance import logs
from appliance.engine.client import EngineClient, EngineProcess
from appliance.engine.messages import Load, Ready
from appliance.errors import ApplianceError, EngineOutOfMemory, EngineUnavailable, GPUMissing, QueueFull
from appliance.hardware.fit import Fit
from appliance.hardware.memory_use import MemoryUse
from appliance.supervisor.spec import ModelSpec, Spawn

log = logging.getLogger(__name__)

State = Literal["stored", "loading", "ready", "draining", "failed"]

# After ends and failed loads in a row; an engine that had served for long is started again at once.
BACKOFF_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
STABLE_AFTER_S = 60.0
LOAD_WAIT_S = 300.0
STOP_GRACE_S = 5.0
# How often a load is tried again with less, after it has run out of memory.
MAX_STEPS_DOWN = 3


class ModelHost:
    """``is_wanted``: it was loaded and has ended unasked, or shall be loaded without a request.

    ``n_users`` are the requests that have its engine, or were promised it. ``fit`` and ``memory`` say what it takes
    while it has a process.
    """

    def __init__(self, spec: ModelSpec, spawn: Spawn, on_change: Callable[[str, ModelHost], None]) -> None:
        """``on_change`` is called with the name of what has happened."""
        self.spec = spec
        self.state: State = "stored"
        self.error: ApplianceError | None = None
        self.info: Ready | None = None
        self.fit: Fit | None = None
        self.memory: MemoryUse = {}
        self.is_wanted = False
        self.has_been_ready = False
        self.n_users = 0
        self.last_used_at = 0.0
        self.load_s = 0.0
        self.retry_at = 0.0
        self.client: EngineClient | None = None
        self._spawn = spawn
        self._on_change = on_change
        self._clock = asyncio.get_running_loop().time
        self._waiters: dict[asyncio.Future[EngineClient], float] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._ready_at = 0.0
        self._n_ends_in_a_row = 0
        self._watching: asyncio.Task[None] | None = None

    @property
    def key(self) -> str:
        return self.spec.key

    @property
    def load_info(self) -> Load | None:
        """How full its engine is."""
        return self.client.load if self.client is not None else None

    @property
    def n_waiting(self) -> int:
        """Those who were neither given the engine nor refused."""
        return sum(not waiter.done() for waiter in self._waiters)

    @property
    def waiting_since(self) -> float | None:
        """When the one who waits longest came."""
        return min((since for waiter, since in self._waiters.items() if not waiter.done()), default=None)

    @property
    def load_progress(self) -> float | None:
        return self.client.load_progress if self.state == "loading" and self.client is not None else None

    @contextlib.asynccontextmanager
    async def engine(self) -> AsyncIterator[EngineClient]:
        """The engine, once it is there; it isn't taken away for another model while the block lasts.

        Raises:
            EngineUnavailable: the model can't be loaded, or isn't for too long.
            QueueFull: as many requests as are allowed wait already.
        """
        client = await self._acquire()
        try:
            yield client
        finally:
            self._leave()

    def reserve(self, fit: Fit) -> None:
        """Counts what the model will take, before :meth:`load` takes it."""
        self.fit, self.memory = fit, fit.memory

    def release(self) -> None:
        """It takes nothing: it has no process, and gets none for now."""
        self.fit, self.memory = None, {}

    async def load(
        self, fit: Fit, step_down: Callable[[Fit], Fit | None], process: EngineProcess | None = None
    ) -> None:
        """Starts the engine and waits until it is ready; whoever waits for it then gets it.

        ``process``: one that was started already. Raises the error that keeps the model from being loaded.
        """
        self.error = None
        self._set("loading")
        try:
            for n_steps_down in range(MAX_STEPS_DOWN + 1):
                try:
                    await self._start(fit, process)
                    break
                except EngineOutOfMemory as error:
                    smaller = step_down(fit)
                    if smaller is None or n_steps_down == MAX_STEPS_DOWN:
                        raise
                    log.warning(
                        logs.event(
                            "load_stepped_down",
                            model=self.key,
                            n_gpu_layers=f"{fit.run.n_gpu_layers}->{smaller.run.n_gpu_layers}",
                            n_ctx=f"{fit.run.n_ctx}->{smaller.run.n_ctx}",
                            reason=error,
                        )
                    )
                    fit, process = smaller, None
        except ApplianceError as error:
            self._end_failed(error)
            raise
        except BaseException:
            try:
                await self._kill()
            finally:
                self._set("stored")
            raise

    async def unload(self, drain_s: float) -> None:
        """Lets its requests finish for up to ``drain_s``, and ends the engine; nothing if it isn't ready."""
        client = self.client
        if client is None or self.state not in ("ready", "draining"):
            return
        self.is_wanted = False
        if self.state == "ready":
            self._set("draining")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await self._idle.wait()
        if self.n_users:
            log.warning(logs.event("drain_ended", model=self.key, requests=self.n_users, drain_s=drain_s))
        await client.stop(STOP_GRACE_S)
        if self._watching is not None:
            await self._watching

    def fail(self, error: ApplianceError, *, retry_s: float) -> None:
        """Ends the engine at once, and refuses requests with ``error`` until it may be tried again."""
        self.error = error
        self.retry_at = self._clock() + retry_s
        self._set("failed")
        self.refuse(error)
        if self.client is not None:
            self.client.kill(error.message)

    def refuse(self, error: ApplianceError) -> None:
        """Ends the waiting of all who wait; the state stays what it is."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)

    async def close(self) -> None:
        """Ends the engine; requests that are still open fail, and those that wait are refused."""
        self.refuse(EngineUnavailable("the server is stopping", retry_after_s=30))
        if self._watching is not None:
            self._watching.cancel()
        if self.client is not None:
            await self.client.stop(STOP_GRACE_S)

    async def _start(self, fit: Fit, process: EngineProcess | None) -> None:
        started_at = self._clock()
        self.reserve(fit)
        try:
            process = process or self._spawn(self.spec, fit)
        except OSError as error:
            raise EngineUnavailable(f"no engine process can be started: {error.strerror}", retry_after_s=10) from None
        self.client = client = EngineClient(
            process, max_open=self.spec.max_open, on_progress=lambda ratio: self._on_change("progress", self)
        )
        try:
            info = await client.ready()
        except ApplianceError:
            await client.ended()
            raise
        if self.spec.require_gpu and not (info.has_gpu and info.n_gpu_layers):
            await client.stop(STOP_GRACE_S)
            raise GPUMissing(f"{self.spec.stored.name} wants a GPU (require_gpu), and llama.cpp found none to use")
        self.info, self.error = info, None
        self.has_been_ready = True
        self._ready_at = self.last_used_at = self._clock()
        self._watching = asyncio.create_task(self._watch(client))
        self.load_s = self._ready_at - started_at
        self._set("ready")
        for waiter in self._waiters:
            if not waiter.done():
                self._join()
                waiter.set_result(client)

    async def _watch(self, client: EngineClient) -> None:
        """Lasts until the engine has ended, whether that was wanted or not."""
        await client.ended()
        if self.client is not client:
            return
        was, now = self.state, self._clock()
        self.client = self.info = None
        self.release()
        if was == "failed":  # by fail(), which said why
            self._on_change("ended", self)
        elif was == "draining":
            self._n_ends_in_a_row = 0
            self._set("stored")
        else:
            if now - self._ready_at > STABLE_AFTER_S:
                self._n_ends_in_a_row = 0
            log.error(logs.event("engine_ended", model=self.key, pid=client.pid, reason=client.exit_reason()))
            self.is_wanted = True
            self._back_off(EngineUnavailable(f"its engine process {client.exit_reason()}"))

    def _end_failed(self, error: ApplianceError) -> None:
        """A load came to nothing."""
        pid = self.client.pid if self.client is not None else None
        log.error(logs.event("engine_load_failed", model=self.key, pid=pid, reason=error))
        self.client = None
        self.release()
        if self.state == "failed":  # by fail(), which said why
            return
        # One that has served comes back by itself, so that readiness doesn't wait for a request.
        self.is_wanted = self.is_wanted or self.has_been_ready
        # One that was never loaded isn't tried again at once.
        self._n_ends_in_a_row = max(1, self._n_ends_in_a_row)
        self._back_off(error)

    def _back_off(self, error: ApplianceError) -> None:
        """Quarantines the model for longer each time in a row."""
        delay_s = BACKOFF_S[min(self._n_ends_in_a_row, len(BACKOFF_S) - 1)]
        self._n_ends_in_a_row += 1
        self.retry_at = self._clock() + delay_s
        if delay_s == 0.0:
            self._set("stored")  # at once again: requests wait for it
            return
        self.error = error
        self._set("failed")
        self.refuse(self.unavailable())

    def unavailable(self) -> EngineUnavailable:
        """What a request is told that comes while the model is in quarantine."""
        retry_after_s = max(1, round(self.retry_at - self._clock()))
        reason = self.error.message if self.error is not None else "unknown"
        return EngineUnavailable(
            f"the model {self.spec.stored.name} can't be loaded: {reason}", retry_after_s=retry_after_s
        )

    async def _kill(self) -> None:
        client, self.client = self.client, None
        try:
            if client is not None:
                client.kill("its load was broken off")
                await client.ended()
        finally:
            self.release()

    async def _acquire(self) -> EngineClient:
        if self.state == "ready" and self.client is not None and not self.client.has_ended:
            self._join()
            return self.client
        if len(self._waiters) >= self.spec.max_open:
            raise QueueFull(
                f"{self.spec.max_open} requests wait for the model to load; try again later", retry_after_s=5
            )
        waiter: asyncio.Future[EngineClient] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = self._clock()
        self._on_change("asked_for", self)
        try:
            async with asyncio.timeout(LOAD_WAIT_S):
                return await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._leave()  # it was granted while the one who waited left
            if isinstance(error, TimeoutError):
                raise EngineUnavailable("the model is still loading; try again later", retry_after_s=30) from None
            raise
        finally:
            del self._waiters[waiter]

    def _join(self) -> None:
        self.n_users += 1
        self._idle.clear()

    def _leave(self) -> None:
        self.n_users -= 1
        self.last_used_at = self._clock()
        if self.n_users == 0:
            self._idle.set()
            self._on_change("idle", self)

    def _set(self, state: State) -> None:
        self.state = state
        self._on_change(state, self)
