"""Speculation: which sequences of a step are given guesses of how they go on.

Guesses are computed in the same step as the token that they follow, and each counts only if it is the token that would
have been sampled there. What a step gains depends on how many are right, what it costs on how much longer each makes
it: both are measured, and where it does not pay nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from appliance.engine.step import Chunk

# What a guess must be expected to gain above its cost: acceptance and costs are estimates.
_MARGIN = 1.1


def with_drafts(chunks: Iterable[Chunk], n_most: int, token_cost: float) -> list[Chunk]:
    """The chunks of a step that only decodes, with at most ``n_most`` guesses of what follows, where they should pay.

    ``token_cost`` is what one more token adds to a step, in parts of what a step costs besides its tokens.
    """
    chunks = list(chunks)
    chance = least_chance(sum(chunk.n_tokens for chunk in chunks), token_cost)
    for number, chunk in enumerate(chunks):
        sequence = chunk.sequence
        if sequence.lookup is None or not chunk.wants_logits or n_most <= 0:
            continue
        # Behind the last guess one more token is sampled.
        draft = sequence.lookup.draft(min(n_most, sequence.n_most - len(sequence.tokens) - 1), chance)
        if draft:
            n_most -= len(draft)
            chunks[number] = replace(chunk, draft=tuple(draft))
    return chunks


def least_chance(n_decoding: int, token_cost: float, guess_cost: float = 0.0) -> float:
    """How likely a guess must be right to pay in a step of ``n_decoding`` tokens.

    ``token_cost`` is what one more token adds to a step, in parts of what a step costs besides its tokens, and
    ``guess_cost`` what it takes to make a guess. A guess is worth its time if it gains tokens at the rate at which the
    step would without it.
    """
    return _MARGIN * n_decoding * (token_cost + guess_cost) / (1.0 + n_decoding * token_cost)
