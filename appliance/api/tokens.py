"""``POST /v1/tokenize`` and ``POST /v1/detokenize``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from appliance.api.state import Service, State
from appliance.engine.messages import PromptPart
from appliance.schemas.completions import DetokenizeRequest, TokenizeRequest

router = APIRouter()


@router.post("/v1/tokenize")
async def tokenize(body: TokenizeRequest, service: Service, state: State) -> dict[str, Any]:
    """The tokens of a text or of a conversation, and how many the context holds."""
    model = service.resolve(body.model)
    parts = (PromptPart(body.prompt or "", True),) if body.messages is None else service.render(body.messages)
    tokens = await service.tokenize(parts)
    info = state.supervisor.info
    return {"model": model, "count": len(tokens), "max_model_len": info.n_ctx if info else None, "tokens": tokens}


@router.post("/v1/detokenize")
async def detokenize(body: DetokenizeRequest, service: Service) -> dict[str, Any]:
    """The text of tokens; control tokens are written out."""
    return {"model": service.resolve(body.model), "prompt": await service.detokenize(body.tokens)}
