"""One generation: its tokens and how many of them are computed."""

from __future__ import annotations

from dataclasses import dataclass, field

from appliance.engine.prompt_lookup import PromptLookup

# Most tokens that follow one that was sampled without being sampled: a step bounds how long others wait.
MAX_FORCED = 32


@dataclass(slots=True, eq=False)
class Sequence:
    """``n`` > 1 makes several of these for one request.

    Prefill is arithmetic, not a mode: ``n_computed`` of ``tokens`` (prompt and answer) have their keys and
    values in the slot, ``n_pending`` are still to be computed, and once none but the newest is pending each
    step adds one token, and what a grammar forces behind it.
    """

    request_id: str
    index: int
    tokens: list[int]
    n_prompt: int
    # Who may share computed prefixes.
    scope: str = ""
    # Whose share of the engine it counts against, and how large that is beside others'.
    key: str = ""
    weight: float = 1.0
    # Waits for and yields to all that is interactive.
    is_batch: bool = False
    # A request with a seed: computed so that the same seed gives the same text (ARCHITECTURE.md, "Seeds").
    exact: bool = False
    top_logprobs: int | None = None
    # Guesses how it goes on; None: nothing is guessed. And the most tokens that it may have: it guesses none beyond.
    lookup: PromptLookup | None = None
    n_most: int = 0
    slot: int | None = None
    # The slot in which it was when it made way for another.
    left_slot: int | None = None
    n_computed: int = 0
    # At which numbers of computed tokens, in ascending order, a step has to end: there a copy of the slot is retained.
    checkpoints: list[int] = field(default_factory=list)
    # Tokens of the prompt that were taken from another sequence when this one first got its slot.
    n_cached: int | None = field(default=None)

    @property
    def n_pending(self) -> int:
        return len(self.tokens) - self.n_computed

    @property
    def n_to_compute(self) -> int:
        """How many of those that are pending one step may compute."""
        return self.checkpoints[0] - self.n_computed if self.checkpoints else self.n_pending

    @property
    def is_decoding(self) -> bool:
        """Whether its next step goes on with its answer: by a token, and those that a grammar forced behind it."""
        n_pending = len(self.tokens) - self.n_computed
        return n_pending == 1 or (n_pending <= MAX_FORCED + 1 and self.n_computed >= self.n_prompt)

    @property
    def n_completion(self) -> int:
        return len(self.tokens) - self.n_prompt
