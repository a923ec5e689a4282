"""What one step computes, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.engine.sequence import Sequence
from appliance.engine.slots import Copy, Release


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """Most prompt tokens in one step: beside sequences that decode, and where none does."""

    beside_decode: int
    alone: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens ``start`` to ``start + n_tokens`` of a sequence; the last one is sampled if ``wants_logits``.

    ``is_decode``: it goes on with an answer, or costs no more than that; else it computes a prompt.
    """

    sequence: Sequence
    slot: int
    start: int
    n_tokens: int
    wants_logits: bool
    is_decode: bool


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Memory operations in their order, then one batch."""

    memory: tuple[Copy | Release, ...]
    chunks: tuple[Chunk, ...]
    exact: bool

    @property
    def n_tokens(self) -> int:
        return sum(chunk.n_tokens for chunk in self.chunks)

    @property
    def n_prompt_tokens(self) -> int:
        """Tokens of prompts, but for a last one alone, which costs what a decoded one does."""
        return sum(chunk.n_tokens for chunk in self.chunks if not chunk.is_decode)
