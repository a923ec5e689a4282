"""A completion: one or more prompts, each with ``n`` answers, asked for by one request."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from appliance.cache.key import is_deterministic
from appliance.engine.messages import Event, Finished, Piece
from appliance.service.answers import Source
from appliance.service.generation import Answer, Generation
from appliance.service.tool_calls import ToolUse


@dataclass(frozen=True, slots=True)
class Timings:
    """How long a completion took, from its request's arrival. Several prompts count as one that ran as long as all."""

    queue_s: float
    ttft_s: float
    prompt_tokens_per_s: float
    completion_tokens_per_s: float
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """Choice ``index`` of the answer is answer ``index % n`` to prompt ``index // n``."""

    id: str
    model: str
    fingerprint: str
    created_s: int
    generations: tuple[Generation, ...]
    n: int
    service_tier: str | None = None
    # How the answers' texts are read; None: as they are.
    tool_use: ToolUse | None = None

    @property
    def n_choices(self) -> int:
        return self.n * len(self.generations)

    async def answers(self) -> list[Answer]:
        """The whole answer to each prompt, in order. When one fails the others are aborted and its error is raised."""
        if len(self.generations) == 1:
            return [await self.generations[0].answer()]
        tasks = [asyncio.create_task(generation.answer()) for generation in self.generations]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def events(self) -> AsyncGenerator[tuple[int, Sequence[Event]], None]:
        """The number of a prompt and what came of it, as it comes. Closing the iterator aborts all prompts."""
        if len(self.generations) == 1:
            async with contextlib.aclosing(self.generations[0].events()) as batches:
                async for events in batches:
                    yield 0, events
            return
        # Bounded: a client that doesn't read stops the readers of all of its prompts.
        merged: asyncio.Queue[tuple[int, Sequence[Event]] | Exception] = asyncio.Queue(len(self.generations))

        async def read(number: int, generation: Generation) -> None:
            try:
                async with contextlib.aclosing(generation.events()) as batches:
                    async for events in batches:
                        # Text in the queue will leave, whatever becomes of the engine meanwhile.
                        if any(isinstance(event, Piece) for event in events):
                            generation.commit()
                        await merged.put((number, events))
            except Exception as error:  # handed on to the reader of the stream
                await merged.put(error)

        tasks = [asyncio.create_task(read(number, g)) for number, g in enumerate(self.generations)]
        try:
            for generation in self.generations:  # with the first text it is told where all of it comes from
                await generation.is_located.wait()
                if generation.refusal is not None:
                    raise generation.refusal
            n_open = len(tasks)
            while n_open:
                item = await merged.get()
                if isinstance(item, Exception):
                    raise item
                n_open -= isinstance(item[1][-1], Finished)
                yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def may_be_stored(self) -> bool:
        """Whether it is deterministic."""
        return all(is_deterministic(generation.submit.params) for generation in self.generations)

    @property
    def sources(self) -> list[Source]:
        """Where the answers come from, of each prompt for which that is known yet."""
        return [generation.source for generation in self.generations if generation.source is not None]

    def timings(self, usages: Sequence[Finished]) -> Timings:
        n_computed = sum(usage.n_prompt - usage.n_cached for usage in usages)
        # The first token of each sequence belongs to the prefill.
        n_decoded = sum(usage.n_completion for usage in usages) - self.n_choices
        return Timings(
            queue_s=max(usage.queue_s for usage in usages),
            ttft_s=min((g.ttft_s for g in self.generations if g.ttft_s is not None), default=0.0),
            prompt_tokens_per_s=_rate(n_computed, max(usage.prefill_s for usage in usages)),
            completion_tokens_per_s=_rate(n_decoded, max(usage.decode_s for usage in usages)),
            cached_tokens=sum(usage.n_cached for usage in usages),
        )


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 and count > 0 and math.isfinite(seconds) else 0.0
