"""Answers under a JSON schema, beside free ones of the same length."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from typing import Any

from bench.bench import Bench
from bench.client import Answer, Endpoint, Exchange, send
from bench.figures import Figure, Target
from bench.load import finish_all, no_collection
from bench.peers.base import LLAMA_SERVER, RunningPeer
from bench.peers.llama_cpp_python import LlamaCppPython
from bench.prompts import words
from bench.rounds import Sample
from bench.workloads.base import HttpWorkload
from bench.workloads.http import N_CTX, facts, output_rate

N_PROMPT = 20
N_CLIENTS = 8
MAX_TOKENS = 400
# A schema of 20 kB that no server has seen, so many times a round.
N_NEW_SCHEMAS = 5
NEW_SCHEMA_BYTES = 20_000


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


# What apps take out of texts: names of fields that are given, short texts, choices, numbers, lists.
ORDER = _object(
    customer=_object(name={"type": "string", "maxLength": 30}, email={"type": "string", "maxLength": 30}),
    items={
        "type": "array",
        "minItems": 2,
        "maxItems": 4,
        "items": _object(
            description={"type": "string", "maxLength": 40},
            quantity={"type": "integer", "minimum": 1, "maximum": 99},
            category={"enum": ["hardware", "software", "service", "other"]},
        ),
    },
    priority={"enum": ["low", "normal", "high"]},
    summary={"type": "string", "maxLength": 120},
)


async def structured(bench: Bench, server: RunningPeer, round_number: int) -> Sample:
    """One stream and eight, each under the schema and free; then first tokens with schemas that are new."""
    endpoint = server.endpoint
    if server.name == LlamaCppPython.name:  # it knows no such response_format
        return Sample({}, {})
    # Compiled once, and not counted: apps send the same schema again and again.
    await _answers(endpoint, [_prompt("warm", round_number)], schema=ORDER, max_tokens=[MAX_TOKENS])
    figures: dict[str, float] = {}
    raw: dict[str, Any] = {}
    for name, n_clients in (("one", 1), ("eight", N_CLIENTS)):
        prompts = [_prompt(name, round_number, client) for client in range(n_clients)]
        bound = await _answers(endpoint, prompts, schema=ORDER, max_tokens=[MAX_TOKENS] * n_clients)
        # Other prompts, of the same length: nothing of them is computed yet.
        prompts = [_prompt(name, "free", round_number, client) for client in range(n_clients)]
        free = await _answers(endpoint, prompts, schema=None, max_tokens=[answer.n_tokens for answer in bound])
        figures[f"{name}_schema_tokens_per_s"] = output_rate(bound)
        figures[f"{name}_free_tokens_per_s"] = output_rate(free)
        figures[f"{name}_schema_to_free_ratio"] = output_rate(bound) / output_rate(free)
        raw[name] = {"schema": [facts(a) for a in bound], "free": [facts(a) for a in free]}
    added_s = []
    for number in range(N_NEW_SCHEMAS):
        schema = _large_schema(f"{round_number}_{number}")
        (with_it,) = await _first_tokens(endpoint, _prompt("new", round_number, number), schema)
        (without,) = await _first_tokens(endpoint, _prompt("old", round_number, number), None)
        added_s.append(with_it.ttft_s - without.ttft_s)
    figures["new_schema_added_s"] = statistics.median(added_s)
    return Sample(figures, {**raw, "new_schemas_added_s": added_s})


def _prompt(*seed: object) -> str:
    return f"Write down an order about these words: {words(N_PROMPT, 'structured', *seed)}"


def _large_schema(name: str) -> dict[str, Any]:
    """About :data:`NEW_SCHEMA_BYTES` of JSON: many fields with texts and choices."""
    n_fields = NEW_SCHEMA_BYTES // 160
    return _object(
        **{
            f"field_{name}_{number}": {
                "anyOf": [
                    {"type": "string", "maxLength": 20 + number},
                    {"type": "null"},
                    {"enum": [f"choice {number} a", f"choice {number} b"]},
                ]
            }
            for number in range(n_fields)
        }
    )


async def _answers(
    endpoint: Endpoint, prompts: Sequence[str], *, schema: dict[str, Any] | None, max_tokens: Sequence[int]
) -> list[Answer]:
    with no_collection():
        exchanges = await asyncio.gather(
            *(_start(endpoint, prompt, schema, n) for prompt, n in zip(prompts, max_tokens, strict=True))
        )
        return await finish_all(exchanges)


async def _first_tokens(endpoint: Endpoint, prompt: str, schema: dict[str, Any] | None) -> list[Answer]:
    return await _answers(endpoint, [prompt], schema=schema, max_tokens=[64])


async def _start(endpoint: Endpoint, prompt: str, schema: dict[str, Any] | None, max_tokens: int) -> Exchange:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        # What is free and greedy soon repeats itself, which would be guessed.
        "speculation": False,
    }
    if schema is None:
        body["ignore_eos"] = True
    else:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "order", "strict": True, "schema": schema},
        }
    if endpoint.model is not None:
        body["model"] = endpoint.model
    return await send(endpoint, "POST", "/v1/chat/completions", body)


STRUCTURED = HttpWorkload(
    "structured",
    "a JSON schema, one stream and eight",
    (
        Figure("one_schema_tokens_per_s", "tok/s of one stream", Target("at least", 1.5, LLAMA_SERVER)),
        Figure("one_schema_to_free_ratio", "one stream, under the schema / free", Target("at least", 1.0)),
        Figure("eight_schema_tokens_per_s", "tok/s of eight streams"),
        Figure("eight_schema_to_free_ratio", "eight streams, under the schema / free", Target("at least", 0.9)),
        Figure("new_schema_added_s", "first token later with a new schema of 20 kB", Target("at most", 0.15)),
    ),
    n_ctx=N_CTX,
    n_slots=8,
    measure=structured,
)
