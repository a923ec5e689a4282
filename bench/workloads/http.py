"""The workloads that every server gets over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from bench.bench import Bench
from bench.client import Answer
from bench.errors import BenchError
from bench.figures import Figure, Target
from bench.load import TIMEOUT_S, check, complete, finish_all, no_collection, start, start_all
from bench.peers.base import LLAMA_SERVER, RunningPeer
from bench.prompts import words
from bench.rounds import Sample
from bench.summary import percentile
from bench.workloads.base import HttpWorkload

# Enough for each slot's share of it, where a server divides it among them.
N_CTX = 32768
N_SHORT_PROMPT = 20
N_SHARED_PREFIX = 1250
N_TAIL = 40
N_LONG_PROMPT = 3000
N_LONG_CONTEXT = 900


async def one_stream(bench: Bench, server: RunningPeer, round_number: int) -> Sample:
    prompt = words(N_SHORT_PROMPT, "one_stream", round_number)
    (answer,) = await complete(server.endpoint, [prompt], max_tokens=256)
    return Sample({"tpot_s": answer.tpot_s, "ttft_s": answer.ttft_s}, {"answers": [facts(answer)]})


def clients(n_clients: int, max_tokens: int) -> HttpWorkload:
    """So many clients at once with short prompts, each with a slot."""
    name = f"clients_{n_clients}"

    async def measure(bench: Bench, server: RunningPeer, round_number: int) -> Sample:
        prompts = [words(N_SHORT_PROMPT, name, round_number, client) for client in range(n_clients)]
        answers = await complete(server.endpoint, prompts, max_tokens=max_tokens)
        figures = {
            "output_tokens_per_s": output_rate(answers),
            "ttft_p50_s": percentile([answer.ttft_s for answer in answers], 0.5),
        }
        return Sample(figures, {"answers": [facts(answer) for answer in answers]})

    figures = (
        Figure("output_tokens_per_s", "total output tok/s", Target("at least", 1.0, LLAMA_SERVER)),
        Figure("ttft_p50_s", "TTFT p50"),
    )
    title = f"{n_clients} clients, short prompts, {max_tokens} tokens each"
    return HttpWorkload(name, title, figures, n_ctx=N_CTX, n_slots=n_clients, measure=measure)


async def shared_prefix(bench: Bench, server: RunningPeer, round_number: int) -> Sample:
    """The median is known when a little more than half have begun; the others are not waited for."""
    prefix = words(N_SHARED_PREFIX, "shared_prefix", round_number)
    prompts = [f"{prefix} {words(N_TAIL, 'tail', round_number, client)}" for client in range(16)]
    with no_collection():
        exchanges = await start_all(server.endpoint, prompts, max_tokens=16)
        try:
            waits = [asyncio.create_task(exchange.wait_for_first(TIMEOUT_S)) for exchange in exchanges]
            for done in asyncio.as_completed(waits):
                await done
                if sum(wait.done() for wait in waits) > len(waits) // 2:
                    break
        finally:
            for wait in waits:
                wait.cancel()
            for exchange in exchanges:
                exchange.abort()
    answers = [exchange.answer() for exchange in exchanges]
    for answer in answers:
        if answer.error is not None and answer.status != 0:
            raise BenchError(f"{server.name} answered with an error: {answer.error}")
    known = sorted(answer.ttft_s for answer in answers if answer.text_times_s)
    # Those that had not begun come later than all that had.
    median_s = percentile(known + [TIMEOUT_S] * (len(answers) - len(known)), 0.5)
    return Sample({"ttft_p50_s": median_s, "ttft_first_s": known[0]}, {"ttfts_s": known})


async def long_prompt(bench: Bench, server: RunningPeer, round_number: int) -> Sample:
    """Four streams decode; once each has its first tokens, the long prompt is sent."""
    prompts = [words(N_SHORT_PROMPT, "long_prompt", round_number, stream) for stream in range(4)]
    with no_collection():
        streams = await start_all(server.endpoint, prompts, max_tokens=1000)
        try:
            await asyncio.gather(*(stream.wait_for_more(8, TIMEOUT_S) for stream in streams))
            prompt = words(N_LONG_PROMPT, "long_prompt", round_number)
            (long,) = await finish_all([await start(server.endpoint, prompt, max_tokens=4)])
        finally:
            for stream in streams:
                stream.abort()
    window = (long.sent_at_s, long.text_times_s[0])
    answers = [stream.answer() for stream in streams]
    gaps = [gap for answer in answers for gap in gaps_within(answer.text_times_s, *window)]
    figures = {
        "itl_p99_s": percentile(gaps, 0.99),
        "itl_p50_s": percentile(gaps, 0.5),
        "long_prompt_ttft_s": long.ttft_s,
    }
    return Sample(figures, {"gaps_s": gaps, "long_prompt": facts(long)})


async def distinct_contexts(bench: Bench, server: RunningPeer, round_number: int) -> Sample:
    """Decoding at 8 sequences: with 900 tokens of context each, none shared, and with 20 each."""
    rates = {}
    raw: dict[str, Any] = {}
    for kind, n_words in (("long", N_LONG_CONTEXT), ("short", N_SHORT_PROMPT)):
        prompts = [words(n_words, "distinct_contexts", kind, round_number, client) for client in range(8)]
        with no_collection():
            streams = await start_all(server.endpoint, prompts, max_tokens=256)
            try:
                await asyncio.gather(*(stream.wait_for_first(TIMEOUT_S) for stream in streams))
                await asyncio.gather(*(stream.wait_for_more(48, TIMEOUT_S) for stream in streams))
            finally:
                for stream in streams:
                    stream.abort()
        answers = [stream.answer() for stream in streams]
        for answer in answers:
            check(answer)
        rates[kind] = common_decode_rate([answer.text_times_s for answer in answers])
        raw[kind] = [facts(answer) for answer in answers]
    figures = {
        "long_decode_tokens_per_s": rates["long"],
        "short_decode_tokens_per_s": rates["short"],
        "long_to_short_ratio": rates["long"] / rates["short"],
    }
    return Sample(figures, raw)


def output_rate(answers: Sequence[Answer]) -> float:
    """Tokens a second of all together, from the first request's start to the last one's end."""
    duration_s = max(answer.ended_at_s for answer in answers) - min(answer.sent_at_s for answer in answers)
    return sum(answer.n_tokens for answer in answers) / duration_s


def common_decode_rate(streams: Sequence[Sequence[float]]) -> float:
    """Tokens a second of all together while every one of them decodes, from the times of their events.

    A server with fewer slots never has all of them decode: then, while any does.
    """
    start_s = max(times_s[0] for times_s in streams)
    end_s = min(times_s[-1] for times_s in streams)
    if end_s > start_s:
        n_tokens = sum(1 for times_s in streams for time_s in times_s if start_s < time_s <= end_s)
        return n_tokens / (end_s - start_s)
    covered_s, until_s = 0.0, 0.0
    for times_s in sorted(streams, key=lambda times_s: times_s[0]):
        covered_s += max(0.0, times_s[-1] - max(times_s[0], until_s))
        until_s = max(until_s, times_s[-1])
    return sum(len(times_s) - 1 for times_s in streams) / covered_s


def gaps_within(times_s: Sequence[float], start_s: float, end_s: float) -> list[float]:
    """The times between two neighbouring events of which any part lies between start and end."""
    return [after - before for before, after in pairwise(times_s) if after > start_s and before < end_s]


def facts(answer: Answer) -> dict[str, Any]:
    """What is kept of an answer."""
    return {
        "n_prompt": answer.n_prompt,
        "n_tokens": answer.n_tokens,
        "ttft_s": round(answer.ttft_s, 6),
        "latency_s": round(answer.latency_s, 6),
    }


ONE_STREAM = HttpWorkload(
    "one_stream",
    "one stream, 256 tokens",
    (Figure("tpot_s", "TPOT", Target("at most", 1.03, LLAMA_SERVER)), Figure("ttft_s", "TTFT")),
    n_ctx=N_CTX,
    n_slots=8,
    measure=one_stream,
)
SHARED_PREFIX = HttpWorkload(
    "shared_prefix",
    "16 clients, one 1,250-token shared prefix, own tails, cold",
    (
        Figure("ttft_p50_s", "TTFT p50", Target("at most", 0.25, LLAMA_SERVER)),
        Figure("ttft_first_s", "TTFT of the first one"),
    ),
    n_ctx=N_CTX,
    n_slots=16,
    measure=shared_prefix,
)
LONG_PROMPT = HttpWorkload(
    "long_prompt",
    "a 3,000-token prompt arrives while 4 streams decode",
    (
        Figure("itl_p99_s", "the others' inter-token latency p99", Target("at most", 0.7, LLAMA_SERVER)),
        Figure("itl_p50_s", "the others' inter-token latency p50"),
        Figure("long_prompt_ttft_s", "TTFT of the long prompt"),
    ),
    n_ctx=N_CTX,
    n_slots=8,
    measure=long_prompt,
)
DISTINCT_CONTEXTS = HttpWorkload(
    "distinct_contexts",
    "8 different long contexts, 900 tokens each, beside 8 short ones",
    (
        Figure("long_decode_tokens_per_s", "decode tok/s with long contexts"),
        Figure("short_decode_tokens_per_s", "decode tok/s with short contexts"),
        Figure("long_to_short_ratio", "long / short"),
    ),
    n_ctx=N_CTX,
    n_slots=8,
    measure=distinct_contexts,
)
