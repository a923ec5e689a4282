"""What comes while an answer is given, as typed events."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from tui.client import Comment, Server, ServerError

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True, slots=True)
class Accepted:
    """The server has taken it. ``cache`` is its X-Cache header: hit, miss, joined or bypass."""

    request_id: str | None
    cache: str | None
    cache_age_s: float | None


@dataclass(frozen=True, slots=True)
class Prefill:
    """So much of the prompt is computed."""

    n_computed: int
    n_prompt: int


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """What is new of a tool call: its name comes once, its arguments bit by bit."""

    index: int
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Ended:
    finish_reason: str


@dataclass(frozen=True, slots=True)
class AnsweredBy:
    """The model's own name: an alias or nothing may have been asked for."""

    model: str


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """As the server measured them."""

    ttft_s: float
    tokens_per_s: float


Event = Accepted | Prefill | Text | Reasoning | ToolCallPart | Ended | AnsweredBy | Usage | Timings

_PREFILL = re.compile(r"prefill (\d+)/(\d+)")


async def answer_events(server: Server, body: dict[str, Any]) -> AsyncGenerator[Event, None]:
    """Asks for a chat completion. Close it to stop the answer. Raises ServerError."""
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    model: str | None = None
    async with contextlib.aclosing(server.stream("POST", "/v1/chat/completions", body)) as items:
        async for item in items:
            if not isinstance(item, dict | Comment):
                yield _accepted(item)
            elif isinstance(item, Comment):
                if found := _PREFILL.match(item.text):
                    yield Prefill(int(found[1]), int(found[2]))
            else:
                chunk = _chunk(item)
                if chunk.model and chunk.model != model:
                    model = chunk.model
                    yield AnsweredBy(model)
                for event in _events(chunk):
                    yield event


def _accepted(headers: httpx.Headers) -> Accepted:
    age = headers.get("Age", "")
    return Accepted(headers.get("X-Request-ID"), headers.get("X-Cache"), float(age) if age.isdecimal() else None)


def _events(chunk: _Chunk) -> Iterator[Event]:
    for choice in chunk.choices:
        if choice.delta.reasoning_content:
            yield Reasoning(choice.delta.reasoning_content)
        if choice.delta.content:
            yield Text(choice.delta.content)
        for call in choice.delta.tool_calls or ():
            yield ToolCallPart(call.index, call.function.name or "", call.function.arguments or "")
        if choice.finish_reason:
            yield Ended(choice.finish_reason)
    if (usage := chunk.usage) is not None:
        yield Usage(usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens_details.cached_tokens)
    if (timings := chunk.timings) is not None:
        yield Timings(timings.ttft_s, timings.completion_tokens_per_s)


def _chunk(event: dict[str, Any]) -> _Chunk:
    try:
        return _Chunk.model_validate(event)
    except ValidationError:
        raise ServerError("The server's answer is no chat completion: is this the right address?", "refused") from None


class _Function(BaseModel):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(BaseModel):
    index: int = 0
    function: _Function = _Function()


class _Delta(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(BaseModel):
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class _PromptDetails(BaseModel):
    cached_tokens: int = 0


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _PromptDetails = _PromptDetails()


class _Timings(BaseModel):
    ttft_s: float
    completion_tokens_per_s: float


class _Chunk(BaseModel):
    """An event of the stream; what isn't used here is left out."""

    choices: list[_Choice]
    model: str = ""
    usage: _Usage | None = None
    timings: _Timings | None = None
