"""Each of the schemas at temperature 1 on the real model, three times: what ends is as its schema wants it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

from tests.server import RunningServer
from tests.structured.schemas import KEPT, REFUSED
from tests.structured.test_schemas import independent

# Of each: every one draws by a seed of its own.
N_ANSWERS = 3
N_AT_ONCE = 8
MAX_TOKENS = 512


async def test_what_ends_validates_and_few_come_to_no_end(server: RunningServer) -> None:
    turns = asyncio.Semaphore(N_AT_ONCE)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, trust_env=False) as http:

        async def ask(name: str, schema: dict[str, Any]) -> httpx.Response:
            body = {
                "messages": [{"role": "user", "content": f"Write JSON: {name}"}],
                "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
                "temperature": 1,
                "seed": 1,
                "n": N_ANSWERS,
                "max_tokens": MAX_TOKENS,
            }
            async with turns:
                return await http.post("/v1/chat/completions", json=body)

        answers = await asyncio.gather(*(ask(name, schema) for name, schema in KEPT.items()))
        refusals = await asyncio.gather(*(ask(word, schema) for word, schema in REFUSED))
    too_long = []
    for (name, schema), response in zip(KEPT.items(), answers, strict=True):
        assert response.status_code == 200, (name, response.text)
        choices = response.json()["choices"]
        assert len(choices) == N_ANSWERS
        for choice in choices:
            if choice["finish_reason"] == "length":
                too_long.append(name)
                continue
            text = choice["message"]["content"]
            problems = [error.message for error in independent(schema).iter_errors(json.loads(text))]
            assert not problems, (name, text, problems)
    assert len(too_long) <= 0.05 * N_ANSWERS * len(answers), too_long
    for (word, _), response in zip(REFUSED, refusals, strict=True):
        assert response.status_code == 400, (word, response.text)
        assert word in response.json()["error"]["message"]
