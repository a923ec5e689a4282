"""Answers that repeat a text of their prompt, and free ones, with and without guesses of how they go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.bench import Bench
from bench.client import Answer
from bench.figures import Figure, Target
from bench.load import finish_all, no_collection, start
from bench.peers.base import APPLIANCE, RunningPeer
from bench.prompts import words
from bench.rounds import Sample
from bench.workloads.base import HttpWorkload
from bench.workloads.http import N_CTX, facts, output_rate

N_CLIENTS = 8
N_TEXT = 300
N_BEGUN = 30
N_SHORT_PROMPT = 20
MAX_TOKENS = 240
# Greedy free text of a small model soon repeats itself, which would be guessed.
FREE_TEMPERATURE = 1.0


async def speculation(bench: Bench, server: RunningPeer, round_number: int) -> Sample:
    """Each first without guesses, then with them; the prompts of a pair are of the same kind and length."""
    if server.name != APPLIANCE:
        return Sample({}, {})
    figures: dict[str, float] = {}
    raw: dict[str, Any] = {}
    for name, n_clients in (("repeat", 1), ("free_one", 1), ("free_eight", N_CLIENTS)):
        rates = {}
        for is_on in (False, True):
            make = _text_to_repeat if name == "repeat" else _free
            prompts = [make(name, is_on, round_number, client) for client in range(n_clients)]
            temperature = 0.0 if name == "repeat" else FREE_TEMPERATURE
            answers = await _answers(server, prompts, temperature=temperature, speculation=is_on)
            rates[is_on] = output_rate(answers)
            raw[f"{name}_{'with' if is_on else 'without'}"] = [facts(answer) for answer in answers]
        figures[f"{name}_tokens_per_s"] = rates[True]
        figures[f"{name}_ratio"] = rates[True] / rates[False]
    return Sample(figures, raw)


def _text_to_repeat(*seed: object) -> str:
    text = words(N_TEXT, "speculation", *seed)
    return f"{text}\n\n{text}\n\n{' '.join(text.split()[:N_BEGUN])}"


def _free(*seed: object) -> str:
    return words(N_SHORT_PROMPT, "speculation", *seed)


async def _answers(
    server: RunningPeer, prompts: Sequence[str], *, temperature: float, speculation: bool
) -> list[Answer]:
    with no_collection():
        exchanges = [
            await start(
                server.endpoint, prompt, max_tokens=MAX_TOKENS, temperature=temperature, speculation=speculation
            )
            for prompt in prompts
        ]
        return await finish_all(exchanges)


SPECULATION = HttpWorkload(
    "speculation",
    "answers that repeat their prompt, and free ones",
    (
        Figure("repeat_ratio", "repeat the text, one stream, with guesses / without", Target("at least", 1.5)),
        Figure("free_one_ratio", "free text, one stream, with guesses / without", Target("at least", 0.97)),
        Figure("free_eight_ratio", "free text, eight streams, with guesses / without", Target("at least", 0.97)),
        Figure("repeat_tokens_per_s", "repeat the text, one stream, tok/s"),
        Figure("free_one_tokens_per_s", "free text, one stream, tok/s"),
        Figure("free_eight_tokens_per_s", "free text, eight streams, tok/s"),
    ),
    n_ctx=N_CTX,
    n_slots=N_CLIENTS,
    measure=speculation,
)
