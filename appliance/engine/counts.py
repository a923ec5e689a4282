"""What an engine has done since it was loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """As in :class:`Load`."""

    n_steps: int = 0
    n_prompt_computed: int = 0
    n_prompt_reused: int = 0
    n_sampled: int = 0
    compute_s: float = 0.0
    longest_step_s: float = 0.0

    def saw_step(self, n_prompt: int, step_s: float) -> None:
        """A step has ended that computed so many tokens of prompts."""
        self.n_steps += 1
        self.n_prompt_computed += n_prompt
        self.compute_s += step_s
        if step_s > self.longest_step_s:
            self.longest_step_s = step_s
