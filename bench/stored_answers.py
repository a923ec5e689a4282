"""Answers that are stored before anything is measured, and the requests that ask for them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from appliance.cache.answer import Answer
from appliance.cache.store import ResponseCache
from appliance.engine.messages import Piece, SequenceFinished
from bench.errors import BenchError
from bench.prompts import words

N_TOKENS = 100
_N_PROMPT_WORDS = 60
# What the engine of a small model takes for it.
_COMPUTE_S = 0.7
# Handed over before it is waited until they are written: half a million tokens may wait for that.
_AT_ONCE = 4000


def chat(order: str, *seed: object) -> dict[str, Any]:
    """The body of a chat completion with a prompt that is made of ``seed``; ``order`` is for the fake engine."""
    content = f"{order} {words(_N_PROMPT_WORDS, *seed)}"
    return {"messages": [{"role": "user", "content": content}], "max_tokens": N_TOKENS, "temperature": 0}


def stored_chat(number: int) -> dict[str, Any]:
    """The request that answer ``number`` is stored for."""
    return chat("1 0", "stored", number)


def stored_answer(number: int) -> Answer:
    return answer_of(f" {word}" for word in words(N_TOKENS, "answer", number).split())


def answer_of(texts: Iterable[str]) -> Answer:
    """One that was streamed piece by piece; there must be :data:`N_TOKENS` of them."""
    pieces = tuple(Piece("", 0, text) for text in texts)
    return Answer(_N_PROMPT_WORDS, N_TOKENS, _COMPUTE_S, (*pieces, SequenceFinished("", 0, "length", N_TOKENS)))


async def store(cache: ResponseCache, answers: Iterable[tuple[bytes, Answer]]) -> None:
    """Keeps answers under their keys, and waits until they are written. Raises BenchError if some were not kept."""
    left = iter(answers)
    while some := tuple(islice(left, _AT_ONCE)):
        for key, answer in some:
            cache.put(key, answer, model="fake", version="bench", owner="-")
        await cache.groups()  # comes after all that was put
    if cache.n_unkept or cache.n_evicted:
        raise BenchError(f"{cache.n_unkept} answers could not be kept, {cache.n_evicted} made room: {cache.problem}")
