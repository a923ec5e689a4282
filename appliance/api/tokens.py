"""``POST /v1/tokenize`` and ``POST /v1/detokenize``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from appliance.api.state import Service, State
from appliance.engine.messages import PromptPart
from appliance.schemas.completions import DetokenizeRequest, TokenizeRequest
from appliance.service.conversation import render
from appliance.service.tool_calls import offered_tools

router = APIRouter()


@router.post("/v1/tokenize")
async def tokenize(body: TokenizeRequest, service: Service, state: State) -> dict[str, Any]:
    """The tokens of a text or of a conversation, and how many the context holds."""
    model = service.resolve(body.model)
    if body.messages is None:
        parts: tuple[PromptPart, ...] = (PromptPart(body.prompt or "", True),)
    else:
        parts = render(model, body.messages, offered_tools(tool.function for tool in body.tools or ()))
    tokens = await service.tokenize(model, parts)
    info = state.supervisor.host(model.spec).info
    return {"model": model.name, "count": len(tokens), "max_model_len": info.n_ctx if info else None, "tokens": tokens}


@router.post("/v1/detokenize")
async def detokenize(body: DetokenizeRequest, service: Service) -> dict[str, Any]:
    """The text of tokens; control tokens are written out."""
    model = service.resolve(body.model)
    return {"model": model.name, "prompt": await service.detokenize(model, body.tokens)}
