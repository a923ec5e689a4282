"""What one step computes, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.engine.sequence import Sequence
from appliance.engine.slots import Operation


@dataclass(frozen=True, slots=True)
class StepLimits:
    """Most prompt tokens in one step: ``beside_decode`` beside sequences that decode, and ``alone`` where none does.

    ``token_cost``: what one more decoded token adds to a step, in parts of what a step costs besides its tokens, which
    is ``base_s`` seconds, 0 before any was seen.
    """

    beside_decode: int
    alone: int
    token_cost: float
    base_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens ``start`` to ``start + n_tokens`` of a sequence; what follows is sampled if ``wants_logits``.

    ``is_decode``: it goes on with an answer, or costs no more than that; else it computes a prompt. ``draft`` are
    guesses of what follows, which are computed too; what follows each is sampled as long as they are right.
    """

    sequence: Sequence
    slot: int
    start: int
    n_tokens: int
    wants_logits: bool
    is_decode: bool
    draft: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Memory operations in their order, then one batch. There is room for ``n_more_drafts`` further guesses."""

    memory: tuple[Operation, ...]
    chunks: tuple[Chunk, ...]
    exact: bool
    n_more_drafts: int = 0

    @property
    def n_tokens(self) -> int:
        return sum(chunk.n_tokens + len(chunk.draft) for chunk in self.chunks)

    @property
    def has_drafts(self) -> bool:
        return any(chunk.draft for chunk in self.chunks)

    @property
    def n_prompt_tokens(self) -> int:
        """Tokens of prompts, but for a last one alone, which costs what a decoded one does."""
        return sum(chunk.n_tokens for chunk in self.chunks if not chunk.is_decode)
