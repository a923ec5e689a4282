"""What an engine has done since it was loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from appliance.engine.backend import Sampled
from appliance.engine.step import StepPlan


@dataclass(slots=True)
class Counts:
    """As in :class:`Load`."""

    n_steps: int = 0
    n_prompt_computed: int = 0
    n_prompt_reused: int = 0
    n_sampled: int = 0
    n_drafted: int = 0
    n_draft_accepted: int = 0
    compute_s: float = 0.0
    longest_step_s: float = 0.0

    def saw_step(self, n_prompt: int, step_s: float) -> None:
        """A step has ended that computed so many tokens of prompts."""
        self.n_steps += 1
        self.n_prompt_computed += n_prompt
        self.compute_s += step_s
        if step_s > self.longest_step_s:
            self.longest_step_s = step_s

    def saw_sampled(self, plan: StepPlan, sampled: Sequence[Sampled]) -> None:
        """What came of a step of sequences, one for each of its chunks that wanted something."""
        self.n_sampled += len(sampled)
        if plan.has_drafts:
            n_accepted = sum(len(result.following) for result in sampled)
            self.n_sampled += n_accepted
            self.n_draft_accepted += n_accepted
            self.n_drafted += sum(len(chunk.draft) for chunk in plan.chunks)
