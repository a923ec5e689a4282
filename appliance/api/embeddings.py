"""``POST /v1/embeddings``."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from appliance.api import cache_control
from appliance.api.state import Context, State
from appliance.api.streaming import while_connected
from appliance.api.wire.embeddings import embedding_list
from appliance.schemas.embeddings import EmbeddingsRequest
from appliance.schemas.errors import ErrorEnvelope

router = APIRouter(responses={"4XX": {"model": ErrorEnvelope}, "5XX": {"model": ErrorEnvelope}})


@router.post("/v1/embeddings")
async def create_embeddings(body: EmbeddingsRequest, request: Request, state: State, context: Context) -> Response:
    """A vector of each text or list of tokens, of length one. The model must be of the kind `embedding`."""
    embedding = state.embeddings.embed(body, context)
    vectors = await while_connected(request, embedding.vectors())
    rendered = await embedding_list(embedding.model.name, vectors, as_base64=body.encoding_format == "base64")
    return Response(rendered, media_type="application/json", headers=cache_control.headers(embedding.sources))
