"""What chat and text completions have in common on the wire: heads, usage, timings, and the frames of a stream."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

from appliance.engine.messages import Event, Finished, Piece, Progress, SequenceFinished, TokenLogprob
from appliance.service.completion import Completion

DONE = b"data: [DONE]\n\n"
PROGRESS_INTERVAL_S = 1.0


def frame(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def head(completion: Completion, kind: str) -> dict[str, Any]:
    tier = {} if completion.service_tier is None else {"service_tier": completion.service_tier}
    return {
        "id": completion.id,
        "object": kind,
        "created": completion.created_s,
        "model": completion.model,
        "system_fingerprint": completion.fingerprint,
        **tier,
    }


def usage(usages: Sequence[Finished]) -> dict[str, Any]:
    n_prompt = sum(one.n_prompt for one in usages)
    n_completion = sum(one.n_completion for one in usages)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
        "prompt_tokens_details": {"cached_tokens": sum(one.n_cached for one in usages)},
    }


def timings(completion: Completion, usages: Sequence[Finished]) -> dict[str, float]:
    measured = completion.timings(usages)
    return {
        "queue_s": round(measured.queue_s, 6),
        "ttft_s": round(measured.ttft_s, 6),
        "prompt_tokens_per_s": round(measured.prompt_tokens_per_s, 2),
        "completion_tokens_per_s": round(measured.completion_tokens_per_s, 2),
        "cached_tokens": measured.cached_tokens,
    }


class ChunkStream(ABC):
    """The events of a streamed answer as server-sent frames. ``first`` raises a refusal; iterate for the rest."""

    kind: str

    def __init__(self, completion: Completion, *, include_usage: bool) -> None:
        self.completion = completion
        self._include_usage = include_usage
        self._batches = completion.events()
        self._usages: list[Finished] = []
        self._last_choice: dict[str, Any] | None = None
        # The numbers of prompts of which no text has left yet.
        self._unsent = set(range(len(completion.generations)))
        self._is_closed = False
        self._head = head(completion, self.kind)
        # Every frame of text begins and ends with these; nothing in them changes.
        self.begin = b"data: " + orjson.dumps(self._head)[:-1] + b',"choices":[{"index":'
        self.end = b',"finish_reason":null}]' + (b',"usage":null' if include_usage else b"") + b"}\n\n"
        self._progress_at = asyncio.get_running_loop().time()

    @abstractmethod
    def opening(self) -> bytes:
        """The frames that stand before all text."""

    @abstractmethod
    def piece(self, index: int, text: str, logprobs: tuple[TokenLogprob, ...]) -> Iterable[bytes]:
        """The frames of a piece of text, in any number of parts."""

    def rest(self, index: int) -> Iterable[bytes]:
        """The frames of what was held back of a choice that has ended."""
        return ()

    @abstractmethod
    def last_choice(self, index: int, finish_reason: str) -> dict[str, Any]:
        """The choice of the frame that ends a sequence."""

    async def first(self) -> bytes:
        """The frames that open the stream, once the request is accepted; a refusal is raised instead."""
        number, events = await anext(self._batches)
        return self.opening() + self._frames(number, events)

    def __aiter__(self) -> ChunkStream:
        return self

    async def __anext__(self) -> bytes:
        """The frames of what has come since."""
        while True:
            number, events = await anext(self._batches)
            if data := self._frames(number, events):
                return data

    async def aclose(self) -> None:
        """Aborts the request unless it has ended."""
        await self._batches.aclose()

    def chunk(self, choice: dict[str, Any]) -> bytes:
        body = {**self._head, "choices": [choice]}
        return frame({**body, "usage": None} if self._include_usage else body)

    def _frames(self, number: int, events: Sequence[Event]) -> bytes:
        frames: list[bytes] = []
        first_index = number * self.completion.n
        for event in events:
            match event:
                case Piece(_, index, text, logprobs):
                    if self._last_choice is not None:
                        frames += self._flush()
                    if number in self._unsent:
                        self._commit(number)
                    frames += self.piece(index + first_index, text, logprobs)
                case SequenceFinished(_, index, reason):
                    if number in self._unsent:
                        self._commit(number)
                    frames += self._flush()
                    frames += self.rest(index + first_index)
                    self._last_choice = self.last_choice(index + first_index, reason)
                case Progress(_, n_computed, n_prompt):
                    frames.append(self._progress(n_computed, n_prompt))
                case Finished():
                    self._usages.append(event)
                    if len(self._usages) == len(self.completion.generations):
                        frames += self._close()
        if not self._is_closed:
            frames += self._flush()
        return b"".join(frames)

    def _commit(self, number: int) -> None:
        self._unsent.remove(number)
        self.completion.generations[number].commit()

    def _flush(self) -> Iterator[bytes]:
        """The frame that ends a sequence, held back for a moment: the very last one carries the timings."""
        if self._last_choice is not None:
            yield self.chunk(self._last_choice)
            self._last_choice = None

    def _close(self) -> Iterator[bytes]:
        self._is_closed = True
        measured = {"timings": timings(self.completion, self._usages)}
        if self._include_usage:
            yield from self._flush()
            yield frame({**self._head, "choices": [], "usage": usage(self._usages), **measured})
        elif self._last_choice is not None:
            yield frame({**self._head, "choices": [self._last_choice], **measured})
        yield DONE

    def _progress(self, n_computed: int, n_prompt: int) -> bytes:
        """A comment, which clients ignore, at most once a second."""
        now = asyncio.get_running_loop().time()
        if now - self._progress_at < PROGRESS_INTERVAL_S:
            return b""
        self._progress_at = now
        return f": prefill {n_computed}/{n_prompt}\n\n".encode()
