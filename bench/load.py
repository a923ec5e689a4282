"""Many streamed completions at the same time."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bench.client import Answer, Endpoint, Exchange, send
from bench.errors import BenchError

# More than any measurement here takes on a machine that is fit for it.
TIMEOUT_S = 300.0


async def start(endpoint: Endpoint, prompt: str, *, max_tokens: int, **fields: Any) -> Exchange:
    """Sends a completion that is streamed, greedy, and goes on to its full length where a server can do that."""
    body: dict[str, Any] = {
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        # Greedy text of a small model soon repeats itself. To guess that would flatter what is measured here.
        "speculation": False,
        **fields,
    }
    if endpoint.model is not None:
        body["model"] = endpoint.model
    return await send(endpoint, "POST", "/v1/completions", body)


async def complete(
    endpoint: Endpoint, prompts: Sequence[str], *, max_tokens: int, timeout_s: float = TIMEOUT_S
) -> list[Answer]:
    """The answers to all prompts, sent at once. Raises BenchError if one is not answered as it should be."""
    with no_collection():
        exchanges = await start_all(endpoint, prompts, max_tokens=max_tokens)
        return await finish_all(exchanges, timeout_s=timeout_s)


async def start_all(endpoint: Endpoint, prompts: Sequence[str], *, max_tokens: int) -> list[Exchange]:
    return await asyncio.gather(*(start(endpoint, prompt, max_tokens=max_tokens) for prompt in prompts))


async def finish_all(exchanges: Sequence[Exchange], *, timeout_s: float = TIMEOUT_S) -> list[Answer]:
    """Their whole answers, all of them good ones. Leaves none open."""
    try:
        answers = await asyncio.gather(*(exchange.finish(timeout_s) for exchange in exchanges))
    finally:
        for exchange in exchanges:
            exchange.abort()
    for answer in answers:
        check(answer)
        if not answer.is_complete:
            raise BenchError(f"a server broke an answer off after {answer.n_tokens} tokens")
    return answers


def check(answer: Answer) -> None:
    """Raises BenchError unless at least two tokens came, without an error."""
    if answer.error is not None:
        raise BenchError(f"a server answered with an error: {answer.error}")
    if len(answer.text_times_s) < 2:
        raise BenchError(f"a server ended an answer after {len(answer.text_times_s)} tokens")


@contextmanager
def no_collection() -> Iterator[None]:
    """No garbage collection of ours while something is measured."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
