"""Runs the models' engines: loads what is asked for, makes room for it, and replaces what has ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from appliance import logs
from appliance.engine.client import EngineClient, EngineProcess
from appliance.engine.messages import Load, Ready
from appliance.errors import ApplianceError, DoesNotFit, EngineUnavailable, GPUMissing
from appliance.hardware.fit import Fit
from appliance.hardware.memory_use import format_bytes
from appliance.supervisor import switching
from appliance.supervisor.budget import Budget
from appliance.supervisor.events import EventFeed
from appliance.supervisor.guard import Guard
from appliance.supervisor.host import ModelHost
from appliance.supervisor.ledger import Ledger
from appliance.supervisor.planner import Planner
from appliance.supervisor.prospect import Prospect, newcomer_prospect, resident_prospect
from appliance.supervisor.spec import ModelSpec, Spawn
from appliance.supervisor.switching import MakeRoom, Newcomer, Refuse, Resident, Switching

log = logging.getLogger(__name__)

# What other programs give back is not told to us: a model that is wanted and has no room is placed again so often.
LOOK_AGAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator can set of how models are switched; seconds."""

    autoload: bool = True
    max_wait_s: float = 5.0
    drain_s: float = 60.0
    wedged_after_s: float = 30.0


@dataclass(frozen=True, slots=True)
class First:
    """An engine that was started before there was an event loop, so that it loads meanwhile."""

    spec: ModelSpec
    fit: Fit
    process: EngineProcess


class Supervisor:
    """All models that were asked for so far, by their keys. One task decides what is loaded when anything changes."""

    def __init__(
        self, spawn: Spawn, budget: Budget, planner: Planner, rules: Rules | None = None, *, first: First | None = None
    ) -> None:
        self.hosts: dict[str, ModelHost] = {}
        self.feed = EventFeed()
        self.stopping = asyncio.Event()
        self._spawn = spawn
        self.ledger = Ledger(self.hosts, budget, planner)
        self._planner = planner
        self._rules = rules or Rules()
        self._switching = Switching(max_wait_s=self._rules.max_wait_s)
        self._clock = asyncio.get_running_loop().time
        self._woken = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._urgent: set[str] = set()
        # Those that another version takes the place of: they make way although they are pinned.
        self._leaving: set[str] = set()
        # Those that there are no more, while requests wait for them.
        self._gone: set[str] = set()
        # Whom room is made for: until that is done it is not placed.
        self._making_room_for: str | None = None
        if first is not None:
            host = self.host(first.spec)
            host.is_wanted = True
            self._loads[host.key] = self._run(self._load(host, first.fit, first.process))
        guard = Guard(
            self.hosts,
            budget,
            wake=self._woken.set,
            on_wedged=lambda host: self._tell("wedged", host),
            wedged_after_s=self._rules.wedged_after_s,
        )
        self._run(guard.watch_engines())
        self._run(guard.watch_gpus())
        self._run(self._arrange())

    @property
    def is_stopping(self) -> bool:
        return self.stopping.is_set()

    @property
    def loads_on_request(self) -> bool:
        return self._rules.autoload

    def host(self, spec: ModelSpec) -> ModelHost:
        """The model's host, made when it is first asked for; what may change of ``spec`` is taken over."""
        host = self.hosts.get(spec.key)
        if host is None:
            host = self.hosts[spec.key] = ModelHost(spec, self._spawn, self._changed)
        host.spec = spec
        return host

    @contextlib.asynccontextmanager
    async def engine(self, spec: ModelSpec) -> AsyncIterator[EngineClient]:
        """The model's engine, which is loaded if need be; it isn't taken away while the block lasts.

        Raises:
            EngineUnavailable: it can't be loaded, isn't for too long, may not be, or the server is stopping.
            DoesNotFit: there is too little memory for it, also with all others unloaded that may be.
            QueueFull: as many requests as are allowed wait for it already.
        """
        self._check_open()
        host = self.host(spec)
        if host.state == "failed" and self._clock() < host.retry_at:
            raise host.unavailable()
        is_coming = host.state in ("ready", "loading") or host.is_wanted or host.key in self._urgent
        if not is_coming and not self._rules.autoload:
            raise EngineUnavailable(
                f"the model {spec.stored.name} is not loaded, and autoload is off; "
                f"load it with `appliance models load {spec.stored.name}`"
            )
        async with host.engine() as engine:
            yield engine

    async def load(self, spec: ModelSpec) -> Ready:
        """Loads a model now, and has others make way that may. Raises the error that keeps it from being loaded."""
        self._check_open()
        host = self.host(spec)
        if host.state == "failed":
            host.retry_at = 0.0
        self._urgent.add(host.key)
        try:
            async with host.engine():
                assert host.info is not None
                return host.info
        finally:
            self._urgent.discard(host.key)

    def prospect(self, spec: ModelSpec) -> Prospect:
        """What :meth:`load` would do now. Nothing is done, and a model that nobody has asked for stays unknown."""
        host = self.hosts.get(spec.key)
        if host is not None and host.fit is not None and host.state not in ("draining", "failed"):
            return resident_prospect(spec, host.fit, self.ledger, self._planner)
        others = [resident for resident in self._residents() if resident.key != spec.key]
        found = newcomer_prospect(spec, others, self.ledger, self._planner)
        return found if found.error is None else replace(found, error=self._with_pinned(found.error))

    def preload(self, spec: ModelSpec) -> None:
        """Loads a model when it fits beside what is loaded."""
        self.host(spec).is_wanted = True
        self._woken.set()

    async def replace(self, new: ModelSpec, switch: Callable[[], object]) -> None:
        """Loads ``new`` if others of its name are loaded, calls ``switch``, and unloads those, which serve until then.

        Raises what keeps ``new`` from being loaded: nothing is switched then.
        """
        name = new.stored.name
        old = {h.key for h in self.hosts.values() if h.spec.stored.name == name and h.client is not None} - {new.key}
        self._leaving |= old
        try:
            if old:
                await self.load(new)
            switch()
            await asyncio.gather(*(self.unload(key, "replaced") for key in old))
        finally:
            self._leaving -= old

    async def unload(self, key: str, reason: str) -> bool:
        """Ends a model's engine once its requests have ended, or while it loads at once; false if it has none."""
        host, loading = self.hosts.get(key), self._loads.get(key)
        if host is None or (host.client is None and loading is None):
            return False
        host.is_wanted = False
        if loading is not None:
            host.refuse(EngineUnavailable(f"{host.spec.stored.name} was unloaded by an operator", retry_after_s=30))
            if not loading.cancelling():  # else its process is being ended already
                loading.cancel()
            await asyncio.wait([loading])
            if self._loads.get(key) is loading:  # it had not begun
                del self._loads[key]
                host.release()
        else:
            # Goes on to its end, whatever becomes of who waits for it.
            await asyncio.shield(self._run(self._unload(host, self._rules.drain_s, reason)))
        return True

    def forget_all_but(self, keys: Collection[str]) -> None:
        """Models that there are no more are unloaded once their requests have ended, also those that wait for it."""
        self._gone = self.hosts.keys() - keys
        self._woken.set()

    def drain(self) -> None:
        """Gives engines to no more requests; those that have one go on."""
        self.stopping.set()
        for host in self.hosts.values():
            host.refuse(EngineUnavailable("the server is stopping", retry_after_s=30))

    async def stop(self) -> None:
        """Ends all engines; requests that are still open fail."""
        self.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(host.close() for host in self.hosts.values()))

    def loads(self) -> dict[str, Load]:
        """How full the engines are, by their models' names."""
        return {host.spec.stored.name: host.load_info for host in self.hosts.values() if host.load_info is not None}

    def _check_open(self) -> None:
        if self.is_stopping:
            raise EngineUnavailable("the server is stopping", retry_after_s=30)

    def _changed(self, kind: str, host: ModelHost) -> None:
        if kind == "progress":
            return self._tell(kind, host, load_ratio=host.load_progress)
        self._woken.set()
        match kind:
            case "ready":
                self._tell(kind, host, load_s=host.load_s)
            case "failed":
                self._tell(kind, host, error=host.error.message if host.error is not None else None)
            case "loading" | "draining":
                self._tell(kind, host)
        return None

    def _tell(self, kind: str, host: ModelHost, **fields: Any) -> None:
        name, _, version = host.key.rpartition("@")
        self.feed.publish(kind, name, version=version, **fields)

    def _run(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("supervisor_failed", exc_info=error)

    async def _arrange(self) -> None:
        while True:
            self._woken.clear()
            try:
                look_again_at = self._act()
            except Exception:  # if this task ended, no model would ever be loaded again
                log.exception("supervisor_failed")
                look_again_at = self._clock() + LOOK_AGAIN_S
            timeout_s = None if look_again_at is None else max(0.0, look_again_at - self._clock())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._woken.wait()

    def _act(self) -> float | None:
        """Does what is to be done now; when to look again."""
        if self.is_stopping:
            return None
        now = self._clock()
        for host in [self.hosts[key] for key in self._gone if not self.hosts[key].n_waiting]:
            self._gone.discard(host.key)
            self._run(self._forget(host))
        newcomers = self._newcomers(now)
        decisions, look_again_at = self._switching.decide(now, newcomers, self._residents(), self.ledger.place)
        for decision in decisions:
            host = self.hosts[decision.key]
            match decision:
                case switching.Load(_, fit):
                    # Booked at once: what is decided next must count it.
                    host.reserve(fit)
                    self._loads[host.key] = self._run(self._load(host, fit))
                case MakeRoom(_, fit, victims, reason):
                    # Booked at once, too: nobody else gets what the victims leave.
                    host.reserve(fit)
                    self._making_room_for = host.key
                    self._run(self._make_room(host, fit, [self.hosts[key] for key in victims], reason))
                case Refuse(_, error):
                    error = self._with_pinned(error)
                    log.warning(logs.event("model_refused", model=host.key, reason=error))
                    host.error = error
                    host.refuse(error)
                    self._tell("refused", host, error=error.message)
        moments = [look_again_at, self._end_idle(now)]
        moments += [host.retry_at for host in self.hosts.values() if host.is_wanted and host.retry_at > now]
        if any(newcomer.since is None for newcomer in newcomers):
            moments.append(now + LOOK_AGAIN_S)
        return min((moment for moment in moments if moment is not None), default=None)

    def _with_pinned(self, error: ApplianceError) -> ApplianceError:
        """Says which models could have made way."""
        pinned = [host.key for host in self.hosts.values() if host.memory and host.spec.is_pinned]
        if not pinned or isinstance(error, GPUMissing):
            return error
        return DoesNotFit(f"{error.message}. Pinned, so that they make no way: {', '.join(pinned)}")

    def _newcomers(self, now: float) -> list[Newcomer]:
        found = []
        for host in self.hosts.values():
            can_load = host.state == "stored" or (host.state == "failed" and now >= host.retry_at)
            if (
                can_load
                and host.client is None
                and host.key not in (*self._loads, self._making_room_for)
                and (host.n_waiting or host.is_wanted)
            ):
                found.append(Newcomer(host.key, host.waiting_since, host.key in self._urgent))
        return found

    def _residents(self) -> list[Resident]:
        return [
            Resident(
                key=host.key,
                last_used_at=inf if host.n_users else host.last_used_at,
                n_users=host.n_users,
                is_pinned=host.spec.is_pinned and host.key not in self._leaving,
                is_settled=host.state == "ready",
            )
            for host in self.hosts.values()
            if host.memory
        ]

    def _end_idle(self, now: float) -> float | None:
        """Unloads models that nobody has used for their TTL; when the next one's is up."""
        ends = []
        for host in self.hosts.values():
            ttl_s = host.spec.ttl_s
            if ttl_s is None or host.state != "ready" or host.n_users or host.spec.is_pinned:
                continue
            if now >= host.last_used_at + ttl_s:
                # With time to drain: a request may come before it begins.
                self._run(self._unload(host, self._rules.drain_s, "idle"))
            else:
                ends.append(host.last_used_at + ttl_s)
        return min(ends, default=None)

    async def _load(self, host: ModelHost, fit: Fit, process: EngineProcess | None = None) -> None:
        started_at = self._clock()
        log.info(logs.event("model_loading", model=host.key, n_ctx=fit.run.n_ctx, n_gpu_layers=fit.run.n_gpu_layers))
        spec = host.spec
        try:
            rooms = self.ledger.rooms([host.key])
            await host.load(fit, lambda last: self._planner.step_down(spec, last, rooms), process)
            assert host.fit is not None
            assert host.info is not None
            host.memory = self._planner.note(spec, host.fit, host.info)
            log.info(logs.event("model_loaded", model=host.key, load_s=self._clock() - started_at))
            self.ledger.warm_files.loaded(spec.stored.path)
        except ApplianceError:
            return  # the host keeps it, and has told those who wait
        finally:
            self._loads.pop(host.key, None)
            self._woken.set()
        await self.ledger.trim_warm_files()

    async def _make_room(self, newcomer: ModelHost, fit: Fit, victims: list[ModelHost], reason: str) -> None:
        try:
            log.info(logs.event("making_room", wanted=newcomer.key, evicted=[v.key for v in victims], reason=reason))
            await asyncio.gather(*(self._unload(victim, self._rules.drain_s, reason) for victim in victims))
            await self.ledger.wait_until_free(newcomer.key, fit)
        finally:
            newcomer.release()
            self._making_room_for = None
            self._woken.set()

    async def _unload(self, host: ModelHost, drain_s: float, reason: str) -> None:
        memory = {device: format_bytes(use.total_bytes) for device, use in host.memory.items()}
        n_requests, was_ready = host.n_users, host.state == "ready"
        await host.unload(drain_s)
        if not was_ready:
            return  # who began it tells of it
        log.info(logs.event("model_unloaded", model=host.key, reason=reason, requests=n_requests, freed=memory))
        stored = host.spec.stored
        self.ledger.warm_files.unloaded(stored.path, stored.record.gguf_bytes)
        await self.ledger.trim_warm_files()
        self._tell("unloaded", host, reason=reason)

    async def _forget(self, host: ModelHost) -> None:
        await self.unload(host.key, "gone")
        is_there = self.hosts.get(host.key) is host
        if is_there and host.state in ("stored", "failed") and not host.n_waiting and not host.memory:
            del self.hosts[host.key]
            self._gone.discard(host.key)
