"""Runs requests through, so that their answers are stored when apps ask."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from appliance.cache.answer import complete_answer
from appliance.cache.store import ResponseCache
from appliance.errors import ApplianceError, EngineUnavailable, InvalidRequest, QueueFull, ResponseCacheFailed
from appliance.schemas.cache import Warmed
from appliance.schemas.chat import ChatRequest
from appliance.schemas.completions import CompletionRequest
from appliance.schemas.refusal import refusal
from appliance.service.answers import BYPASS, of_several
from appliance.service.completion import Completion
from appliance.service.context import RequestContext
from appliance.service.inference import Inference
from appliance.state.keys import KeyFile

# Enough to fill an engine's steps; they wait for all others there.
N_AT_ONCE = 8
# Of a request whose model can't be loaded at the moment.
N_TRIES = 4

Endpoint = Callable[[Inference, Mapping[str, Any], RequestContext], Completion]


def context_for(keys: KeyFile | None, name: str | None) -> RequestContext:
    """The context of requests of the API key of this name.

    Raises:
        InvalidRequest: there is no such key, or several of different scopes, or none was named where keys are wanted.
    """
    context = RequestContext(f"warm-{uuid.uuid4().hex}", arrived_at=asyncio.get_running_loop().time())
    if keys is None:
        if name is not None:
            raise InvalidRequest("this server has no API keys: all requests share answers; name none", param="key")
        return context
    known = ", ".join(sorted(set(keys.names)))
    if name is None:
        raise InvalidRequest(f"answers belong to API keys: name the one whose apps will ask, of {known}", param="key")
    found = keys.named(name)
    if not found:
        raise InvalidRequest(f"no API key has the name {name!r}; there are: {known}", param="key")
    if len({key.scope for key in found}) > 1:
        raise InvalidRequest(f"several keys with scopes of their own have the name {name!r}", param="key")
    key = found[0]
    return dataclasses.replace(context, key=key.name, scope=key.scope, tenant=key.id, weight=key.weight)


async def warm(
    inference: Inference,
    cache: ResponseCache,
    context: RequestContext,
    requests: Sequence[dict[str, Any]],
    stopping: asyncio.Event,
) -> AsyncGenerator[Warmed, None]:
    """What became of each, as it ends. Closing it ends those that run.

    Raises:
        ApplianceError: what keeps it from its end, once those have ended that ran by then: ``stopping`` is set, nothing
            can be kept any more, or a model can't be loaded.
    """
    work = _Warming(inference, cache, context, stopping)
    tasks = [asyncio.create_task(work.run(index, line)) for index, line in enumerate(requests)]
    try:
        for task in asyncio.as_completed(tasks):
            if (result := await task) is not None:
                yield result
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if work.failure is not None:
        raise work.failure


class _Warming:
    def __init__(
        self, inference: Inference, cache: ResponseCache, context: RequestContext, stopping: asyncio.Event
    ) -> None:
        # What keeps it from its end: nothing more is begun.
        self.failure: ApplianceError | None = None
        self._inference = inference
        self._cache = cache
        self._context = context
        self._stopping = stopping
        self._turns = asyncio.Semaphore(N_AT_ONCE)

    async def run(self, index: int, line: dict[str, Any]) -> Warmed | None:
        """What became of a request; None if it came to no end."""
        n_tries = 0
        async with self._turns:
            await asyncio.sleep(0)  # many that cost no waiting must not hold up the loop one after another
            while self._goes_on():
                request_id, now = f"{self._context.request_id}-{index}", asyncio.get_running_loop().time()
                context = dataclasses.replace(self._context, request_id=request_id, arrived_at=now)
                try:
                    state, reason = await _run(self._inference, context, line)
                    return Warmed(index=index, state=state, reason=reason)
                except ValidationError as error:
                    return Warmed(index=index, state="error", reason=refusal(error.errors()).message)
                except ApplianceError as error:
                    if error.retry_after_s is None:
                        return Warmed(index=index, state="error", reason=error.message)
                    # Others are served first for as long as they come; a model that can't be loaded ends it.
                    n_tries += not isinstance(error, QueueFull)
                    if n_tries == N_TRIES:
                        self.failure = self.failure or error
                        return None
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._stopping.wait(), error.retry_after_s)
        return None

    def _goes_on(self) -> bool:
        if self.failure is None and self._stopping.is_set():
            self.failure = EngineUnavailable("the server is stopping", retry_after_s=30)
        if self.failure is None and self._cache.problem is not None:
            self.failure = ResponseCacheFailed(f"no answer can be kept at the moment: {self._cache.problem}")
        return self.failure is None


async def _run(inference: Inference, context: RequestContext, line: dict[str, Any]) -> tuple[str, str | None]:
    """Where its answer came from, and why it isn't kept."""
    endpoint, body = _meant(line)
    completion = endpoint(inference, body, context)
    if not completion.may_be_stored:
        return BYPASS, "it has neither temperature 0 nor a seed"
    is_kept = True
    for generation in completion.generations:
        async with contextlib.aclosing(generation.events()) as batches:
            is_kept &= complete_answer(generation.submit, [events async for events in batches]) is not None
    state = of_several(source.state for source in completion.sources)
    return state, None if is_kept else "its text ends where the context does; max_tokens sets an end before that"


def _meant(line: dict[str, Any]) -> tuple[Endpoint, Mapping[str, Any]]:
    """Where a body, or a line of a batch file, goes, and the body. Raises InvalidRequest."""
    is_of_batch_file = "body" in line
    body = line["body"] if is_of_batch_file else line
    if not isinstance(body, dict):
        raise InvalidRequest("body: want a JSON object")
    if is_of_batch_file and line.get("method", "POST") != "POST":
        raise InvalidRequest("method: want POST")
    if is_of_batch_file and "url" in line:
        url = line["url"]
        if not isinstance(url, str) or url not in _ENDPOINTS:
            raise InvalidRequest(f"url: want one of {', '.join(_ENDPOINTS)}")
        return _ENDPOINTS[url], body
    if "messages" in body:
        return _chat, body
    if "prompt" in body:
        return _complete, body
    raise InvalidRequest("it has neither messages nor a prompt")


def _chat(inference: Inference, body: Mapping[str, Any], context: RequestContext) -> Completion:
    request = ChatRequest.model_validate(body)
    return inference.chat(request.model_copy(update=_WAITING), context)


def _complete(inference: Inference, body: Mapping[str, Any], context: RequestContext) -> Completion:
    request = CompletionRequest.model_validate(body)
    return inference.complete(request.model_copy(update=_WAITING), context)


# Behind all others.
_WAITING = {"service_tier": "flex"}
_ENDPOINTS: dict[str, Endpoint] = {"/v1/chat/completions": _chat, "/v1/completions": _complete}
