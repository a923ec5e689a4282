"""What runs right now, and what came of what ran: the one place that the log, the metrics and the admin API read."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from appliance.engine.messages import Embed, Finished, Submit
from appliance.service.answers import Source, of_several
from appliance.service.context import RequestContext
from appliance.service.metrics import Metrics

# Of how many of the latest requests the latencies in the status are computed.
N_LATENCIES = 512
# How many of those that have ended are listed.
N_RECENT = 100


class Work(Protocol):
    """What one prompt, or the texts of one request that are embedded, have come to."""

    @property
    def submit(self) -> Submit | Embed: ...

    @property
    def context(self) -> RequestContext: ...

    @property
    def state(self) -> str:
        """``waiting``, ``prefill`` or ``decode``."""

    @property
    def source(self) -> Source | None:
        """None until it is known."""

    @property
    def n_prompt(self) -> int: ...

    @property
    def n_computed(self) -> int:
        """Of the prompt's tokens."""

    @property
    def n_pieces(self) -> int: ...

    @property
    def ttft_s(self) -> float | None: ...

    def cancel(self) -> None: ...


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
        self._open: dict[str, Work] = {}

    @contextlib.contextmanager
    def entry(self, work: Work) -> Iterator[None]:
        """Counts ``work`` among those that run, inside the block."""
        self._open[work.submit.request_id] = work
        try:
            yield
        finally:
            del self._open[work.submit.request_id]

    def running(self) -> list[Work]:
        """Oldest first."""
        return list(self._open.values())

    def cancel(self, request_id: str) -> bool:
        """Ends the request of this id with an error, all of its prompts; false if there is none."""
        found = [g for g in self._open.values() if request_id in (g.context.request_id, g.submit.request_id)]
        for work in found:
            work.cancel()
        return bool(found)

    def ended(self, work: Work, outcome: str, finished: Finished | None) -> None:
        context, source = work.context, work.source
        e2e_s = asyncio.get_running_loop().time() - context.arrived_at
        # Times of those for which nothing was computed would say nothing of the engine.
        is_computed = source is None or source.is_computed_for_it
        if is_computed:
            self.metrics.saw_end(context.model, outcome, e2e_s)
        context.outcome = outcome
        if source is not None:
            context.cache = source.state if context.cache == "-" else of_several((context.cache, source.state))
        if context.ttft_s is None:
            context.ttft_s = work.ttft_s
        self.recent.append(_ended(work, outcome, finished, e2e_s))
        if finished is None:
            return
        context.n_prompt += finished.n_prompt
        context.n_completion += finished.n_completion
        context.n_cached += finished.n_cached
        if is_computed:
            self.latencies.append(
                Latency(work.ttft_s, e2e_s, finished.queue_s, finished.n_completion, finished.decode_s)
            )


def _ended(work: Work, outcome: str, finished: Finished | None, e2e_s: float) -> Ended:
    context, source = work.context, work.source
    return Ended(
        id=work.submit.request_id,
        request_id=context.request_id,
        key=context.key,
        model=context.model,
        outcome=outcome,
        cache=source.state if source is not None else None,
        n_prompt=finished.n_prompt if finished is not None else work.n_prompt,
        n_cached=finished.n_cached if finished is not None else 0,
        # One that was broken off has told its pieces, and a piece is a token but for rare ones.
        n_completion=finished.n_completion if finished is not None else work.n_pieces,
        queue_s=finished.queue_s if finished is not None and source is not None and source.is_computed_for_it else None,
        ttft_s=work.ttft_s,
        e2e_s=e2e_s,
        ended_s=time.time(),
    )
