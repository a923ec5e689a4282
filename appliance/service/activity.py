"""What runs right now, and what came of what ran: the one place that the log, the metrics and the admin API read."""

from __future__ import annotations

import asyncio
import contextlib
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
N_RECENT = 512


@dataclass(frozen=True, slots=True)
class Ended:
    """A generation that has ended."""

    outcome: str
    ttft_s: float | None
    e2e_s: float
    queue_s: float
    n_completion: int
    decode_s: float


class Activity:
    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
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
        if finished is None:
            return
        context.n_prompt += finished.n_prompt
        context.n_completion += finished.n_completion
        context.n_cached += finished.n_cached
        if is_computed:
            self.recent.append(
                Ended(outcome, generation.ttft_s, e2e_s, finished.queue_s, finished.n_completion, finished.decode_s)
            )
