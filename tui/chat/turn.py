"""One answer that is being given: what has come of it, and what that took."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from time import monotonic
from typing import Any

from tui.chat.conversation import Answer, Conversation, Question, ToolCall
from tui.chat.stream import (
    Accepted,
    AnsweredBy,
    Ended,
    Event,
    Prefill,
    Reasoning,
    Text,
    Timings,
    ToolCallPart,
    Usage,
    answer_events,
)
from tui.client import Server, ServerError

# A tool call further than this is no list of calls but nonsense.
MAX_TOOL_CALLS = 128


class Turn:
    """Fills ``answer``; ``prefill`` is how far the prompt is computed, None before and after. ``request_id`` is what
    the server calls it, once it has taken it. Changes are counted in ``version``."""

    def __init__(self, answer: Answer, *, clock: Callable[[], float] = monotonic) -> None:
        self.answer = answer
        self.prefill: Prefill | None = None
        self.request_id: str | None = None
        self.version = 0
        self.error: ServerError | None = None
        self._clock = clock
        self._began_s = clock()
        self._first_s: float | None = None
        self._n_pieces = 0

    @property
    def waited_s(self) -> float:
        """Since it began."""
        return self._clock() - self._began_s

    async def run(self, server: Server, body: dict[str, Any]) -> None:
        """To the answer's end, which is never raised: ``outcome``, ``problem`` and ``error`` say how it went.

        Cancelling stops the answer; what has come is kept.
        """
        answer = self.answer
        try:
            async with contextlib.aclosing(answer_events(server, body)) as events:
                async for event in events:
                    self.take(event)
            answer.outcome = "complete"
        except ServerError as error:
            answer.outcome, answer.problem, self.error = "failed", sentence(error), error
        finally:
            if answer.outcome == "running":
                answer.outcome = "stopped"
            self.prefill = None
            self._measure()
            self.version += 1

    def take(self, event: Event) -> None:
        self.version += 1
        answer, figures = self.answer, self.answer.figures
        match event:
            case Accepted(request_id, cache, age_s):
                self.request_id = request_id
                figures.cache, figures.cache_age_s = cache, age_s
            case AnsweredBy(model):
                answer.model = model
            case Prefill():
                self.prefill = event
            case Text(text):
                self._came()
                answer.text += text
            case Reasoning(text):
                self._came()
                answer.reasoning += text
            case ToolCallPart(index, name, arguments):
                self._came()
                self._take_tool_call(index, name, arguments)
            case Ended(reason):
                answer.finish_reason = reason
            case Usage(n_prompt, n_completion, n_cached):
                figures.prompt_tokens, figures.completion_tokens = n_prompt, n_completion
                figures.cached_tokens = n_cached
            case Timings(ttft_s, tokens_per_s):
                figures.ttft_s, figures.tokens_per_s = ttft_s, tokens_per_s

    def _take_tool_call(self, index: int, name: str, arguments: str) -> None:
        calls = self.answer.tool_calls
        if not 0 <= index < MAX_TOOL_CALLS:
            raise ServerError(f"The server speaks of tool call {index}; there can't be so many.", "refused")
        while len(calls) <= index:
            calls.append(ToolCall())
        calls[index].name += name
        calls[index].arguments += arguments

    def _came(self) -> None:
        self._n_pieces += 1
        if self._first_s is None:
            self._first_s = self._clock()
            self.prefill = None

    def _measure(self) -> None:
        """Where the server gave no figures, since it could not, those seen from here; a piece is a token."""
        figures = self.answer.figures
        figures.seconds = self.waited_s
        if figures.ttft_s is not None or self._first_s is None:
            return
        figures.ttft_s = self._first_s - self._began_s
        figures.completion_tokens = self._n_pieces
        lasted_s = self._clock() - self._first_s
        if self._n_pieces > 1 and lasted_s > 0:
            figures.tokens_per_s = (self._n_pieces - 1) / lasted_s


def request_body(conversation: Conversation, question: Question) -> dict[str, Any]:
    """What the server is asked. What isn't set isn't sent: the server's own settings hold then."""
    model = {} if conversation.model is None else {"model": conversation.model}
    return {**model, "messages": conversation.wire_messages(question), **conversation.sampling}


def sentence(error: ServerError) -> str:
    """What went wrong, and when to come again if the server said so."""
    if error.retry_after_s is None:
        return error.message
    return f"{error.message} Try again in {error.retry_after_s} s."
