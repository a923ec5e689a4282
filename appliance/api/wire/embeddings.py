"""Vectors in OpenAI's JSON."""

from __future__ import annotations

import asyncio
import base64
import sys
from array import array
from collections.abc import Sequence

import orjson

from appliance.service.embeddings import FLOAT_BYTES, Vector

# After so many numbers, a few milliseconds' work, others get their turn.
_NUMBERS_AT_ONCE = 50_000


async def embedding_list(model: str, vectors: Sequence[Vector], *, as_base64: bool) -> bytes:
    """The body of an answer; as base64, vectors are little-endian float32."""
    rendered: list[bytes] = []
    n_numbers = 0
    for index, vector in enumerate(vectors):
        body = b'"' + base64.b64encode(vector.values) + b'"' if as_base64 else _numbers(vector.values)
        rendered.append(b'{"object":"embedding","index":%d,"embedding":%b}' % (index, body))
        n_numbers += len(vector.values) // FLOAT_BYTES
        if n_numbers >= _NUMBERS_AT_ONCE:
            n_numbers = 0
            await asyncio.sleep(0)
    n_tokens = sum(vector.n_tokens for vector in vectors)
    return b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (
        b",".join(rendered),
        orjson.dumps(model),
        n_tokens,
        n_tokens,
    )


def _numbers(values: bytes) -> bytes:
    numbers = array("f", values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return orjson.dumps(numbers.tolist())
