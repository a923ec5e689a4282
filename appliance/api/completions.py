"""``POST /v1/chat/completions`` and ``POST /v1/completions``."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request, Response

from appliance.api import cache_control
from appliance.api.state import Context, Service
from appliance.api.streaming import EventStreamResponse, while_connected
from appliance.api.wire.chat import chat_chunks, chat_completion
from appliance.api.wire.stream import ChunkStream
from appliance.api.wire.text import TextChunks, text_completion
from appliance.schemas.chat import ChatRequest
from appliance.schemas.completions import CompletionRequest
from appliance.schemas.errors import ErrorEnvelope
from appliance.service.completion import Completion

router = APIRouter(responses={"4XX": {"model": ErrorEnvelope}, "5XX": {"model": ErrorEnvelope}})


@router.post("/v1/chat/completions")
async def create_chat_completion(body: ChatRequest, request: Request, service: Service, context: Context) -> Response:
    """Answers a conversation: whole, or as a stream of chunks."""
    completion = service.chat(body, context)
    if body.stream:
        return await _streamed(request, chat_chunks(completion, include_usage=body.wants_usage))
    (answer,) = await while_connected(request, completion.answers())
    return _whole(chat_completion(completion, answer), completion)


@router.post("/v1/completions")
async def create_completion(body: CompletionRequest, request: Request, service: Service, context: Context) -> Response:
    """Continues texts or token lists, as they are: no chat template."""
    completion = service.complete(body, context)
    if body.stream:
        return await _streamed(request, TextChunks(completion, include_usage=body.wants_usage))
    answers = await while_connected(request, completion.answers())
    return _whole(text_completion(completion, answers), completion)


async def _streamed(request: Request, chunks: ChunkStream) -> Response:
    first = await while_connected(request, chunks.first())
    return EventStreamResponse(first, chunks, cache_control.headers(chunks.completion.sources))


def _whole(body: object, completion: Completion) -> Response:
    return Response(
        orjson.dumps(body), media_type="application/json", headers=cache_control.headers(completion.sources)
    )
