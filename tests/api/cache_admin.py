"""What tests of ``/admin/cache`` share."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.gateway import Gateway

KEYS = {
    "sk-0123456789abcdef": "name=app",
    "sk-1123456789abcdef": "name=twin",
    "sk-2123456789abcdef": "name=twin",
    "sk-3123456789abcdef": "name=team scope=team",
    "sk-4123456789abcdef": "name=team scope=team",
}


async def post(gateway: Gateway, action: str, body: Any = None) -> httpx.Response:
    return await gateway.http.post(f"/admin/cache/{action}", json=body, headers=gateway.admin)


def chat(content: str = "a", **fields: Any) -> dict[str, Any]:
    """The body of a request that :meth:`Gateway.chat` makes, too."""
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 3, "temperature": 0, **fields}


async def warmed(gateway: Gateway, *requests: Any, **fields: Any) -> list[tuple[str, str | None]]:
    """State and reason of each, in the order of the requests; the stream's error, if it ends so, as the last."""
    response = await post(gateway, "warm", {"requests": list(requests), **fields})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *lines, last = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line.startswith("data: ")]
    if last != "[DONE]":
        lines.append(last)
    events = [json.loads(line) for line in lines]
    results = sorted((event["index"], event["state"], event["reason"]) for event in events if "error" not in event)
    failures = [("failed", event["error"]["message"]) for event in events if "error" in event]
    return [(state, reason) for _, state, reason in results] + failures
