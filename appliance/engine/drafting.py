"""Guesses of a draft model: for which sequences of a step it is asked, and when that pays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from appliance.engine.acceptance import PRIOR, Acceptance
from appliance.engine.backend import Drafter
from appliance.engine.pace import MIN_CHUNK, Rate, ratio
from appliance.engine.sequence import Sequence
from appliance.engine.speculation import least_chance
from appliance.engine.step import Chunk, StepLimits, StepPlan

# How much of the usual chance each guess replaces, and how far it goes back to what it was at first with each sequence:
# where guesses don't pay, one sequence in some ten finds out whether they do by now.
_SMOOTHING = 0.05
_RECOVERY = 0.01
# How far the chance of a sequence that gets no guesses goes back to the usual one with each token.
_FORGIVENESS = 0.01
# How much less is believed of a guess's measured cost with each step without one: it may have been measured badly.
_DOUBT = 0.002


class ModelDrafts:
    """Adds guesses to the plans of one lane.

    Each sequence keeps how often guesses of it were right, and begins with how often they usually are. One for which
    they don't pay gets none as long as they usually don't, either: to find out whether they would again, the draft
    model had to compute all that has come since.
    """

    def __init__(self, drafter: Drafter, *, n_batch: int, step_s: float, now: Callable[[], float]) -> None:
        """``step_s``: how long the draft model may compute prompts before a step."""
        self._drafter = drafter
        self._n_batch = n_batch
        self._step_s = step_s
        self._now = now
        self._prompt_rate = Rate()
        # Of guesses, once the weights have been read.
        self._guess_rate = Rate()
        self._is_warm = False
        self._usual = Acceptance(smoothing=_SMOOTHING)
        self._acceptance: dict[Sequence, Acceptance] = {}
        # How long it took to extend the latest plan, and the guesses that are in the step that is computed now.
        self.took_s = 0.0
        self._drafts: Mapping[Sequence, list[int]] = {}

    def extend(self, plan: StepPlan, limits: StepLimits) -> StepPlan:
        """The plan with guesses for those sequences that have none, as far as there is room and they should pay."""
        self._drafts, self.took_s = {}, 0.0
        wanted = self._wanted(plan, limits) if plan.n_more_drafts > 0 else {}
        if not wanted:
            return plan
        begun_at = self._now()
        self._catch_up(wanted)
        self._drafts = self._draft(wanted)
        self.took_s = self._now() - begun_at
        if not self._drafts:
            return plan
        chunks = (replace(c, draft=tuple(self._drafts.get(c.sequence, c.draft))) for c in plan.chunks)
        return replace(plan, chunks=tuple(chunks), n_more_drafts=0)

    def observe(self, n_right: Mapping[Sequence, int]) -> None:
        """How many of a sequence's guesses were right in the step that was computed."""
        for sequence, draft in self._drafts.items():
            acceptance = self._acceptance[sequence]
            n_seen = min(n_right[sequence] + 1, len(draft))
            for number in range(n_seen):
                is_right = number < n_right[sequence]
                acceptance.observe(is_right=is_right)
                self._usual.observe(is_right=is_right)
        self._drafts = {}

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended."""
        self._acceptance.pop(sequence, None)
        self._drafter.forget(sequence)

    def _wanted(self, plan: StepPlan, limits: StepLimits) -> dict[Sequence, int]:
        """How many guesses each sequence should get."""
        step_s = limits.base_s * (1.0 + limits.token_cost * plan.n_tokens)
        candidates = [
            chunk.sequence for chunk in plan.chunks if _may_guess(chunk) and self._is_worth_it(chunk.sequence, step_s)
        ]
        if not candidates:
            return {}
        guess_cost = ratio(self._guess_rate.s_per_token or 0.0, limits.base_s)
        chance = least_chance(plan.n_tokens, limits.token_cost, guess_cost)
        n_room = plan.n_more_drafts
        wanted = {}
        for n_before, sequence in enumerate(candidates):
            acceptance = self._acceptance_of(sequence)
            # Behind the last guess one more token is sampled.
            n_most = min(n_room // (len(candidates) - n_before), sequence.n_most - len(sequence.tokens) - 1)
            n_tokens = acceptance.n_likely(n_most, chance)
            if n_tokens:
                wanted[sequence] = n_tokens
                n_room -= n_tokens
            elif acceptance.chance < self._usual.chance:
                acceptance.move(self._usual.chance, _FORGIVENESS)
        if not wanted:
            self._guess_rate.fade(_DOUBT)
        return wanted

    def _is_worth_it(self, sequence: Sequence, step_s: float) -> bool:
        """Whether its answer is so long that the draft model should compute what it lacks of it.

        How long one will get is unknown. It has lasted as long as that takes: so it is as likely to last as long again.
        """
        return (
            self._drafter.n_behind(sequence) * (self._prompt_rate.s_per_token or 0.0) <= sequence.n_completion * step_s
        )

    def _acceptance_of(self, sequence: Sequence) -> Acceptance:
        found = self._acceptance.get(sequence)
        if found is None:
            self._usual.move(PRIOR, _RECOVERY)
            found = self._acceptance[sequence] = Acceptance(self._usual.chance)
        return found

    def _catch_up(self, wanted: Mapping[Sequence, int]) -> None:
        begun_at = self._now()
        n_computed = self._drafter.catch_up(wanted, self._prompt_rate.chunk(self._step_s, self._n_batch))
        if n_computed >= min(MIN_CHUNK, self._n_batch):
            self._prompt_rate.observe(n_computed, self._now() - begun_at)

    def _draft(self, wanted: Mapping[Sequence, int]) -> Mapping[Sequence, list[int]]:
        begun_at = self._now()
        drafts = self._drafter.draft(wanted)
        n_tokens = sum(map(len, drafts.values()))
        if n_tokens and self._is_warm:
            self._guess_rate.observe(n_tokens, self._now() - begun_at)
        self._is_warm = self._is_warm or n_tokens > 0
        return drafts


def _may_guess(chunk: Chunk) -> bool:
    """Nothing before the first token: an answer doesn't begin later for it."""
    is_answer = chunk.wants_logits and chunk.sequence.n_completion > 0
    return is_answer and not chunk.draft and chunk.sequence.lookup is not None
