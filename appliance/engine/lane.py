"""The engine's part for one context of the backend: what runs there, its books, and how fast it is."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from appliance import logs
from appliance.engine.backend import BackendInfo
from appliance.engine.drafting import ModelDrafts
from appliance.engine.pace import Pace
from appliance.engine.scheduler import Scheduler
from appliance.engine.sequence import Sequence
from appliance.engine.step import StepPlan

log = logging.getLogger(__name__)


class Lane:
    """Sequences of different lanes are never in one step and share no prefixes.

    ``number`` is the backend's number of the context; ``adapter`` is what it computes with, empty: the model alone.
    ``drafts``: guesses of a draft model, if there is one.
    """

    def __init__(
        self,
        number: int,
        info: BackendInfo,
        *,
        n_batch: int,
        max_running: int,
        prefix_reuse: bool,
        prompt_step_s: float,
        drafts: ModelDrafts | None = None,
    ) -> None:
        self.number = number
        self.adapter = ""
        self.scheduler = Scheduler(
            n_ctx=info.n_ctx,
            n_batch=n_batch,
            n_seq_max=info.n_seq_max,
            max_running=max_running,
            exact_batch=info.exact_batch,
            exact_reuse=info.exact_reuse and number == 0,  # adapters are computed in other types
            prefix_reuse=prefix_reuse,
            can_cut_prefix=info.can_cut_prefix,
            n_outputs=info.n_outputs,
        )
        self.pace = Pace(n_batch=n_batch, step_s=prompt_step_s)
        self._drafts = drafts
        self._n_full_in_a_row = 0

    @property
    def draft_s(self) -> float:
        """How long the draft model computed for the step that was planned last."""
        return self._drafts.took_s if self._drafts is not None else 0.0

    def schedule(self, n_busy: int) -> StepPlan:
        """This lane's next step, where ``n_busy`` lanes have work and take turns."""
        limits = self.pace.limits(n_busy)
        plan = self.scheduler.schedule(limits)
        return plan if self._drafts is None else self._drafts.extend(plan, limits)

    def apply(self, plan: StepPlan, tokens: list[int], n_right: Mapping[Sequence, int]) -> None:
        """Records what a step came to; see :meth:`Scheduler.apply`."""
        self.scheduler.apply(plan, tokens, n_right)
        if self._drafts is not None:
            self._drafts.observe(n_right)

    def finish(self, sequence: Sequence) -> None:
        """Takes a sequence out; what it computed is retained for later prompts."""
        self.scheduler.finish(sequence)
        if self._drafts is not None:
            self._drafts.forget(sequence)

    def discard(self, sequence: Sequence) -> None:
        """As :meth:`finish`, but nothing of it is kept: what it computed may be wrong."""
        self.scheduler.discard(sequence)
        if self._drafts is not None:
            self._drafts.forget(sequence)

    def step_done(self, plan: StepPlan, step_s: float) -> None:
        """``plan`` was computed and took ``step_s``."""
        self._n_full_in_a_row = 0
        n_prompt = plan.n_prompt_tokens
        self.pace.observe(n_prompt=n_prompt, n_decoding=plan.n_tokens - n_prompt, step_s=step_s)

    def free_room(self, plan: StepPlan) -> bool:
        """The backend had less room for ``plan`` than the books say: frees what can be freed, to plan again.

        False if nothing could be, or if that has not helped.
        """
        self._n_full_in_a_row += 1
        log.warning(
            logs.event("kv_cache_full", lane=self.number, n_tokens=plan.n_tokens, in_a_row=self._n_full_in_a_row)
        )
        if self._n_full_in_a_row == 1 and self.scheduler.drop_retained():
            return True
        if self._n_full_in_a_row <= 2 and self.scheduler.yield_room():
            return True
        self._n_full_in_a_row = 0
        return False
