"""What tests of the response cache over HTTP share."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx

from appliance.service.cache_metrics import Counts
from tests.gateway import Gateway

# A request whose answer is kept unless something is said against it: `Gateway.chat` has temperature 0.
HIT, MISS, JOINED, BYPASS = "hit", "miss", "joined", "bypass"


def state(response: httpx.Response) -> str:
    """Where the answer came from."""
    assert response.status_code == 200, response.text
    return response.headers["X-Cache"]


def error(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def content(response: httpx.Response) -> str:
    """The text of a whole answer."""
    assert response.status_code == 200, response.text
    found: str = response.json()["choices"][0]["message"]["content"]
    return found


def frames(text: str) -> list[dict[str, Any]]:
    """The JSON of a stream that ended as it should."""
    assert text.endswith("data: [DONE]\n\n"), text
    return [json.loads(frame.removeprefix("data: ")) for frame in text.split("\n\n") if frame.startswith("data: {")]


def n_sampled(gateway: Gateway) -> int:
    """How many tokens its engine has sampled since it was loaded."""
    load = gateway.host.load_info
    return load.n_sampled if load is not None else 0


def counts(gateway: Gateway) -> Counts:
    return gateway.activity.metrics.response_cache.total()


async def is_stored(gateway: Gateway, text: str = "a", **fields: Any) -> bool:
    """Whether there is an answer to a chat request. Nothing is computed for that."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 3, "temperature": 0, **fields}
    headers = {"Cache-Control": "only-if-cached"}
    response = await gateway.http.post("/v1/chat/completions", json=body, headers=headers)
    assert response.status_code in (200, 504), response.text
    return response.status_code == 200


async def text_pieces(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    """The pieces of a chat stream's first choice as they come."""
    async for line in lines:
        if line.startswith("data: {"):
            found = json.loads(line.removeprefix("data: "))
            assert "error" not in found, found
            if piece := found["choices"][0]["delta"].get("content"):
                yield piece


async def joined(gateway: Gateway, n_joins: int) -> None:
    """Waits until so many requests have joined others."""
    async with asyncio.timeout(20):
        while counts(gateway).n_joins < n_joins:
            await asyncio.sleep(0.001)


def violations(gateway: Gateway) -> float:
    """How many texts weren't as their schemas want them."""
    text = gateway.activity.metrics.render().decode()
    found = re.search(r'^appliance_schema_violations_total\{model_name="fake"\} (.*)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0
