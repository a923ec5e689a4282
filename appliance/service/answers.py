"""Where an answer comes from: the response cache, a generation that is under way already, or an engine.

What it was is said in ``X-Cache``: ``hit``, ``joined``, ``miss`` (computed, and kept if it becomes complete), or
``bypass`` (the response cache is off, the request isn't deterministic, or it says no-cache or no-store). Requests
join only within their scope, and never one that waits behind all others if they don't themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from appliance.cache.answer import Answer, complete_answer
from appliance.cache.key import answer_key, is_deterministic
from appliance.cache.store import ResponseCache
from appliance.engine.messages import Event, Finished, Submit
from appliance.errors import NotCached
from appliance.service.catalog import ServedModel
from appliance.service.context import RequestContext
from appliance.service.engine_run import EngineRun
from appliance.service.flight import Flight
from appliance.service.forms import Parts, first_violation
from appliance.service.metrics import Metrics
from appliance.supervisor.supervisor import Supervisor

HIT, JOINED, MISS, BYPASS = "hit", "joined", "miss", "bypass"
STATES = (BYPASS, MISS, JOINED, HIT)

# Why a request passes by the response cache, as it is counted.
OFF, SAMPLED, NO_CACHE, NO_STORE = "off", "sampled", "no-cache", "no-store"


def of_several(states: Iterable[str]) -> str:
    """The state that stands for several prompts of one request: the one that says least of a stored answer."""
    return min(states, key=STATES.index)


class Events(Protocol):
    """What a request reads its events from."""

    def commit(self) -> None:
        """Text has left: from now on the request can't begin again."""

    def cancel(self) -> None:
        """Ends the request with an error."""

    def events(self) -> AsyncGenerator[Sequence[Event], None]: ...


@dataclass(frozen=True, slots=True)
class Source:
    """``state`` is one of :data:`STATES`; ``age_s`` is how old a hit is."""

    state: str
    events: Events
    age_s: float = 0.0

    @property
    def is_computed_for_it(self) -> bool:
        """Whether the request waits for the engine by itself, so that its times say something of the engine."""
        return self.state in (MISS, BYPASS)


class Answers:
    """Finds each request its source."""

    def __init__(self, supervisor: Supervisor, cache: ResponseCache | None, metrics: Metrics) -> None:
        """``cache`` None: it is off."""
        self._supervisor = supervisor
        self._cache = cache
        self._metrics = metrics
        # By key, and whether they wait behind all others.
        self._flights: dict[tuple[bytes, bool], Flight] = {}
        self._n_kept = 0
        self._keeping: set[asyncio.Task[None]] = set()

    async def find(self, model: ServedModel, submit: Submit, context: RequestContext, parts_of: Parts) -> Source:
        """Raises NotCached if the request wants a stored answer, and there is none. ``parts_of`` its texts must be as
        they should for its answer to be kept.
        """
        wanted = context.cache_control
        if (reason := self._reason_to_pass_by(submit, context)) is not None:
            if wanted.only_if_cached:
                raise NotCached(NOT_CACHED[reason])
            self._metrics.response_cache.saw_bypass(model.name, reason)
            if reason != NO_CACHE:
                return Source(BYPASS, self._run(model, submit))
            # Computed afresh for this one; who comes meanwhile may join.
            key = answer_key(model.identity, submit)
            return Source(BYPASS, self._start(model, submit, context, key, parts_of).listen())
        assert self._cache is not None
        key = answer_key(model.identity, submit)
        while True:
            if not wanted.only_if_cached and (flight := self._under_way(key, submit)) is not None:
                return self._joined(model, flight)
            n_kept = self._n_kept
            found = await self._cache.get(key, max_age_s=wanted.max_age_s)
            if found is not None:
                self._metrics.response_cache.saw_hit(model.name)
                self._metrics.response_cache.saw_saved(model.name, found.answer.n_tokens, found.answer.compute_s)
                return Source(HIT, _Replay(found.answer, submit.request_id), found.age_s)
            if wanted.only_if_cached:
                raise NotCached("no answer to this request is stored, or none that is young enough (only-if-cached)")
            # While we looked, one may have taken off; or even have landed, and what was kept may be its answer.
            if self._under_way(key, submit) is None and n_kept == self._n_kept:
                break
        self._metrics.response_cache.saw_miss(model.name)
        return Source(MISS, self._start(model, submit, context, key, parts_of).listen())

    def _reason_to_pass_by(self, submit: Submit, context: RequestContext) -> str | None:
        if self._cache is None:
            return OFF
        if not is_deterministic(submit.params):
            return SAMPLED
        if context.cache_control.no_store:
            return NO_STORE
        return NO_CACHE if context.cache_control.no_cache else None

    def _under_way(self, key: bytes, submit: Submit) -> Flight | None:
        flight = self._flights.get((key, False))
        return flight or (self._flights.get((key, True)) if submit.is_batch else None)

    def _joined(self, model: ServedModel, flight: Flight) -> Source:
        self._metrics.response_cache.saw_join(model.name)
        return Source(JOINED, flight.listen())

    def _start(
        self, model: ServedModel, submit: Submit, context: RequestContext, key: bytes, parts_of: Parts
    ) -> Flight:
        slot = (key, submit.is_batch)

        def land(flight: Flight) -> None:
            if self._flights.get(slot) is flight:
                del self._flights[slot]
            if self._cache is not None and flight.is_complete:
                answer = complete_answer(submit, flight.batches)
                if answer is not None and submit.grammar:
                    task = asyncio.create_task(self._keep_sound(key, answer, model, context, parts_of))
                    self._keeping.add(task)
                    task.add_done_callback(self._keeping.discard)
                elif answer is not None:
                    self._keep(key, answer, model, context)

        flight = self._flights[slot] = Flight(self._run(model, submit), land)
        return flight

    async def _keep_sound(
        self, key: bytes, answer: Answer, model: ServedModel, context: RequestContext, parts_of: Parts
    ) -> None:
        """Keeps it, unless it isn't as its form wants it."""
        if await first_violation(parts_of, answer.stopped_texts) is None:
            self._keep(key, answer, model, context)

    def _keep(self, key: bytes, answer: Answer, model: ServedModel, context: RequestContext) -> None:
        assert self._cache is not None
        self._n_kept += 1
        version = model.stored.record.version
        self._cache.put(key, answer, model=model.name, version=version, owner=context.key)

    def _run(self, model: ServedModel, submit: Submit) -> EngineRun:
        def computed(finished: Finished) -> None:
            self._metrics.saw_computed(model.name, finished)

        return EngineRun(self._supervisor, model.spec, submit, computed)


class _Replay:
    """A stored answer."""

    def __init__(self, answer: Answer, request_id: str) -> None:
        self._answer = answer
        self._request_id = request_id

    def commit(self) -> None:
        """Nothing can happen to it any more."""

    def cancel(self) -> None:
        """It is over sooner than that."""

    async def events(self) -> AsyncGenerator[Sequence[Event], None]:
        yield self._answer.replay(self._request_id)


NOT_CACHED = {
    OFF: "the response cache is off, and the request wants a stored answer (only-if-cached)",
    SAMPLED: "no answer is stored to a request without temperature 0 or a seed, and it wants one (only-if-cached)",
    NO_CACHE: "the request wants a stored answer and refuses it (only-if-cached with no-cache)",
    NO_STORE: "the request wants a stored answer and refuses it (only-if-cached with no-store)",
}
