"""``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Request, Response

from appliance.api.chat_wire import ChunkStream, completion
from appliance.api.state import chat_service
from appliance.api.streaming import EventStreamResponse, while_connected
from appliance.schemas.chat import ChatRequest
from appliance.schemas.errors import ErrorEnvelope
from appliance.service.chat import ChatService

router = APIRouter()


@router.post("/v1/chat/completions", responses={"4XX": {"model": ErrorEnvelope}, "5XX": {"model": ErrorEnvelope}})
async def create_chat_completion(
    body: ChatRequest, request: Request, service: Annotated[ChatService, Depends(chat_service)]
) -> Response:
    """Answers a conversation: whole, or as a stream of chunks."""
    chat = service.start(body)
    if body.stream:
        chunks = ChunkStream(chat, include_usage=bool(body.stream_options and body.stream_options.include_usage))
        return EventStreamResponse(await while_connected(request, chunks.first()), chunks)
    answer = await while_connected(request, chat.generation.answer())
    return Response(orjson.dumps(completion(chat, answer)), media_type="application/json")
