"""Runs requests through, so that their answers are stored when apps ask."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from appliance.errors import ApplianceError, InvalidRequest
from appliance.schemas.cache import Warmed
from appliance.schemas.chat import ChatRequest
from appliance.schemas.completions import CompletionRequest
from appliance.service.answers import BYPASS, of_several
from appliance.service.context import RequestContext
from appliance.service.inference import Inference
from appliance.state.keys import KeyFile

# Enough to fill an engine's steps; they wait for all others there.
N_AT_ONCE = 8


def context_for(keys: KeyFile | None, name: str | None) -> RequestContext:
    """The context of requests of the API key of this name.

    Raises:
        InvalidRequest: there is no such key, or several of different scopes, or none was named where keys are wanted.
    """
    context = RequestContext(f"warm-{uuid.uuid4().hex}", arrived_at=asyncio.get_running_loop().time())
    if keys is None:
        if name is not None:
            raise InvalidRequest("this server has no API keys: all requests share answers", param="key")
        return context
    if name is None:
        known = ", ".join(sorted(set(keys.names)))
        raise InvalidRequest(f"answers belong to API keys: say for which one with key; there are: {known}", param="key")
    found = keys.named(name)
    if len({key.scope for key in found}) != 1:
        trouble = "several keys with scopes of their own have" if found else "no API key has"
        raise InvalidRequest(f"{trouble} the name {name!r}", param="key")
    key = found[0]
    context.key, context.scope, context.tenant, context.weight = key.name, key.scope, key.id, key.weight
    return context


async def warm(inference: Inference, context: RequestContext, requests: Sequence[dict[str, Any]]) -> list[Warmed]:
    """What became of each. Cancelling it ends those that run."""
    turns = asyncio.Semaphore(N_AT_ONCE)

    async def run(number: int, body: dict[str, Any]) -> Warmed:
        async with turns:
            own = RequestContext(
                f"{context.request_id}-{number}",
                arrived_at=asyncio.get_running_loop().time(),
                key=context.key,
                scope=context.scope,
                tenant=context.tenant,
                weight=context.weight,
            )
            try:
                return await _run(inference, own, body)
            except ValidationError as error:
                detail = error.errors()[0]
                place = ".".join(map(str, detail["loc"]))
                return Warmed(state="error", reason=f"{place}: {detail['msg']}" if place else detail["msg"])
            except ApplianceError as error:
                return Warmed(state="error", reason=error.message)

    tasks = [asyncio.create_task(run(number, body)) for number, body in enumerate(requests)]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run(inference: Inference, context: RequestContext, body: dict[str, Any]) -> Warmed:
    flex = {**body, "service_tier": "flex"}
    if "messages" in body:
        completion = inference.chat(ChatRequest.model_validate(flex), context)
    elif "prompt" in body:
        completion = await inference.complete(CompletionRequest.model_validate(flex), context)
    else:
        return Warmed(state="error", reason="it has neither messages nor a prompt")
    if not completion.may_be_stored:
        return Warmed(state=BYPASS, reason="it has neither temperature 0 nor a seed")
    await completion.answers()
    return Warmed(state=of_several(source.state for source in completion.sources))
