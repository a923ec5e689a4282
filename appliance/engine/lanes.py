"""Which lane computes which request, and whose turn it is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from appliance.engine.backend import Backend
from appliance.engine.drafting import ModelDrafts
from appliance.engine.lane import Lane
from appliance.engine.request import OpenRequest
from appliance.engine.sequence import Sequence
from appliance.engine.step import StepPlan
from appliance.errors import EngineFailed


class Lanes:
    """All lanes of an engine, by their numbers; those with work take turns.

    The first computes the model alone. Each of the others keeps its adapter until another is asked for that has none:
    then the one is rebound that was used longest ago of those that are idle. While none is, requests wait, and the one
    with the least to do gets no more, so that the first of those that wait has it next.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        n_batch: int,
        max_running: int,
        prefix_reuse: bool,
        prompt_step_s: float,
        now: Callable[[], float],
    ) -> None:
        info = backend.info
        drafts = None
        if backend.drafter is not None:
            drafts = ModelDrafts(backend.drafter, n_batch=n_batch, step_s=prompt_step_s, now=now)
        self._lanes = [
            Lane(
                number,
                info,
                n_batch=n_batch,
                max_running=max_running,
                prefix_reuse=prefix_reuse,
                prompt_step_s=prompt_step_s,
                drafts=drafts if number == 0 else None,  # which knows nothing of adapters
            )
            for number in range(info.n_lanes)
        ]
        self._backend = backend
        self._latest = 0
        # Requests whose adapter has no lane, in their order, and the lane that the first of them shall have.
        self._waiting: list[OpenRequest] = []
        self._leaving: Lane | None = None
        self._used_at = [0] * info.n_lanes
        self._numbers = itertools.count(1)

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes)

    @property
    def n_waiting(self) -> int:
        """Sequences that wait for a lane."""
        return sum(len(request.open) for request in self._waiting)

    @property
    def only_decode(self) -> bool:
        """Whether no lane has more to do than to go on with its answers."""
        return all(lane.scheduler.only_decodes for lane in self._lanes)

    def check(self, adapter: str) -> None:
        """Raises EngineFailed if there can't be a lane for it."""
        if adapter and adapter not in self._backend.info.adapters:
            raise EngineFailed(
                f"the model was loaded without the adapter {adapter}; unload it with `appliance models unload NAME`, "
                "and it is loaded with the adapters that there are now"
            )

    def bound_to(self, adapter: str) -> Lane | None:
        """The lane in which a new request would be computed with this adapter at once; None: there is none yet."""
        return next((lane for lane in self._lanes if lane.adapter == adapter and lane is not self._leaving), None)

    def bound_now(self, adapter: str) -> Lane | None:
        """As :meth:`bound_to`; an idle lane is bound to it if there is none and nobody waits for one."""
        return self.bound_to(adapter) or (None if self._waiting else self._take_idle(adapter))

    def add(self, request: OpenRequest) -> None:
        """Queues a request's sequences in the lane of its adapter, or keeps it until there is one."""
        lane = self.bound_to(request.submit.adapter)
        if lane is not None:
            self._start(request, lane)
        else:
            self._waiting.append(request)
            self._serve_waiting()

    def finish(self, request: OpenRequest, sequence: Sequence) -> None:
        """Takes a sequence out; what it computed is retained for later prompts."""
        if request.lane is not None:
            request.lane.finish(sequence)
        else:
            self._forget(request)

    def discard(self, request: OpenRequest, sequence: Sequence) -> None:
        """As :meth:`finish`, but nothing of it is kept: what it computed may be wrong."""
        if request.lane is not None:
            request.lane.discard(sequence)
        else:
            self._forget(request)

    def schedule(self) -> tuple[Lane, StepPlan]:
        """The next step, and the lane whose turn it is. Its chunks are empty if nothing can be computed."""
        if self._waiting:
            self._serve_waiting()
        busy = [lane for lane in self._lanes if not lane.scheduler.is_idle] or self._lanes[:1]
        lane = next((lane for lane in busy if lane.number > self._latest), busy[0])
        self._latest = lane.number
        return lane, lane.schedule(len(busy))

    def _start(self, request: OpenRequest, lane: Lane) -> None:
        self._used_at[lane.number] = next(self._numbers)
        request.lane = lane
        for sequence in request.open.values():
            lane.scheduler.add(sequence)

    def _forget(self, request: OpenRequest) -> None:
        self._waiting = [other for other in self._waiting if other is not request]
        if not self._waiting:
            self._leaving = None

    def _serve_waiting(self) -> None:
        """Gives lanes to those that wait, in their order, as long as there are idle ones."""
        while self._waiting:
            adapter = self._waiting[0].submit.adapter
            if self._leaving is not None and self._leaving.adapter == adapter:
                self._leaving = None  # who was to have it has gone, or has another
            lane = self.bound_to(adapter) or self._take_idle(adapter)
            if lane is None:
                self._leaving = self._leaving or min(
                    self._lanes[1:], key=lambda lane: (lane.scheduler.n_open, self._used_at[lane.number])
                )
                return
            for request in self._waiting:
                if request.submit.adapter == adapter:
                    self._start(request, lane)
            self._waiting = [request for request in self._waiting if request.lane is None]
        self._leaving = None

    def _take_idle(self, adapter: str) -> Lane | None:
        """An idle lane that computes with this adapter now; what another has computed in it is forgotten."""
        idle = [lane for lane in self._lanes[1:] if lane.scheduler.is_idle]
        if not idle:
            return None
        lane = min(idle, key=lambda lane: (lane.adapter != adapter, self._used_at[lane.number]))
        if lane is self._leaving:
            self._leaving = None
        if lane.adapter != adapter:
            lane.scheduler.drop_retained()
            self._backend.bind(lane.number, adapter)
            lane.adapter = adapter
        return lane
