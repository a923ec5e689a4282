"""What runs right now, and what came of what ran: the one place that the log, the metrics and the admin API read."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.engine.messages import Finished
from appliance.service.answers import of_several
from appliance.service.metrics import Metrics

if TYPE_CHECKING:
    from appliance.service.generation import Generation

# Of how many of the latest requests the latencies in the status are computed.
N_LATENCIES = 512
# How many of those that have ended are listed.
N_RECENT = 100


@dataclass(frozen=True, slots=True)
class Latency:
    """Of a generation that an engine computed for the request it was begun for."""

    ttft_s: float | None
    e2e_s: float
    queue_s: float
    n_completion: int
    decode_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A generation that has ended, however it did. ``cache``: see service.answers; None: it didn't come so far.

    ``queue_s`` None: nothing was computed for it, or not to its end. ``ended_s`` is the wall clock's.
    """

    id: str
    request_id: str
    key: str
    model: str
    outcome: str
    cache: str | None
    n_prompt: int
    n_cached: int
    n_completion: int
    queue_s: float | None
    ttft_s: float | None
    e2e_s: float
    ended_s: float


class Activity:
    """``started_s`` is when the server was started, by the wall clock."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.started_s = time.time()
        self.latencies: deque[Latency] = deque(maxlen=N_LATENCIES)
        self.recent: deque[Ended] = deque(maxlen=N_RECENT)
        self._open: dict[str, Generation] = {}

    @contextlib.contextmanager
    def entry(self, generation: Generation) -> Iterator[None]:
        """Counts ``generation`` among those that run, inside the block."""
        self._open[generation.submit.request_id] = generation
        try:
            yield
        finally:
            del self._open[generation.submit.request_id]

    def running(self) -> list[Generation]:
        """Oldest first."""
        return list(self._open.values())

    def cancel(self, request_id: str) -> bool:
        """Ends the request of this id with an error, all of its prompts; false if there is none."""
        found = [g for g in self._open.values() if request_id in (g.context.request_id, g.submit.request_id)]
        for generation in found:
            generation.cancel()
        return bool(found)

    def ended(self, generation: Generation, outcome: str, finished: Finished | None) -> None:
        context, source = generation.context, generation.source
        e2e_s = asyncio.get_running_loop().time() - context.arrived_at
        # Times of those for which nothing was computed would say nothing of the engine.
        is_computed = source is None or source.is_computed_for_it
        if is_computed:
            self.metrics.saw_end(context.model, outcome, e2e_s)
        context.outcome = outcome
        if source is not None:
            context.cache = source.state if context.cache == "-" else of_several((context.cache, source.state))
        if context.ttft_s is None:
            context.ttft_s = generation.ttft_s
        self.recent.append(_ended(generation, outcome, finished, e2e_s))
        if finished is None:
            return
        context.n_prompt += finished.n_prompt
        context.n_completion += finished.n_completion
        context.n_cached += finished.n_cached
        if is_computed:
            self.latencies.append(
                Latency(generation.ttft_s, e2e_s, finished.queue_s, finished.n_completion, finished.decode_s)
            )


def _ended(generation: Generation, outcome: str, finished: Finished | None, e2e_s: float) -> Ended:
    context, source = generation.context, generation.source
    return Ended(
        id=generation.submit.request_id,
        request_id=context.request_id,
        key=context.key,
        model=context.model,
        outcome=outcome,
        cache=source.state if source is not None else None,
        n_prompt=finished.n_prompt if finished is not None else generation.n_prompt,
        n_cached=finished.n_cached if finished is not None else 0,
        # One that was broken off has told its pieces, and a piece is a token but for rare ones.
        n_completion=finished.n_completion if finished is not None else generation.n_pieces,
        queue_s=finished.queue_s if finished is not None and source is not None and source.is_computed_for_it else None,
        ttft_s=generation.ttft_s,
        e2e_s=e2e_s,
        ended_s=time.time(),
    )
