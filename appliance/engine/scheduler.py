"""Decides what each step computes. It knows no C, no clock and no socket: plan, run, apply.

``schedule()`` returns a plan as plain data, the backend runs it, ``apply()`` records it. A step has a budget of
tokens: one for each sequence that decodes, then chunks of prompts, so that a long prompt never stops the others for
longer than one chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from appliance.engine.order import FairOrder
from appliance.engine.reuse import MIN_SHARED_TOKENS, PrefixReuse
from appliance.engine.sequence import Sequence
from appliance.engine.slots import Slots
from appliance.engine.speculation import with_drafts
from appliance.engine.step import Chunk, StepLimits, StepPlan

# Room left for each running sequence to go on before another is let in, lest it be preempted at once.
HEADROOM_TOKENS = 16
# How many of a key's waiting sequences one step looks past for one whose prefix isn't being computed.
MAX_PASSED_OVER = 16
# What is freed before a seeded sequence starts, as a part of all cells: its attention rounds in the order of its cells,
# and what is freed while it runs may lie below those that it has.
EXACT_FREE_RATIO = 0.25

_NONE_RIGHT: Mapping[Sequence, int] = MappingProxyType({})

Scarce = Literal["slots", "cells"]


class Scheduler:
    """Sequences wait, run in a slot, and are finished; a finished one's slot is retained while room lasts."""

    def __init__(
        self,
        *,
        n_ctx: int,
        n_batch: int,
        n_seq_max: int,
        max_running: int,
        exact_batch: int | None = None,
        exact_reuse: bool = True,
        prefix_reuse: bool = True,
        can_cut_prefix: bool = True,
        n_outputs: int = 0,
    ) -> None:
        """``n_outputs``: most tokens of a step behind which is sampled; those beyond one a sequence are for guesses."""
        if max_running > n_seq_max:
            raise ValueError(f"max_running={max_running} needs as many slots, there are {n_seq_max}")
        if max_running > min(n_batch, exact_batch or n_batch):
            raise ValueError(f"max_running={max_running} does not fit into a step of {exact_batch or n_batch} tokens")
        self.n_preempted = 0
        self._n_batch = n_batch
        self._exact_batch = exact_batch
        self._max_running = max_running
        self._n_outputs = n_outputs
        self._slots = Slots(n_ctx=n_ctx, n_seq_max=n_seq_max, can_cut=can_cut_prefix)
        self._order: FairOrder[Sequence] = FairOrder(max_running=max_running)
        self._reuse = PrefixReuse(
            self._slots, self._order, is_on=prefix_reuse, is_exact=exact_reuse, can_cut=can_cut_prefix
        )
        self._running: list[Sequence] = []
        self._is_admission_held = False

    @property
    def is_idle(self) -> bool:
        return len(self._order) == 0

    @property
    def only_decodes(self) -> bool:
        """Whether the next step goes on with each sequence's answer and does nothing else."""
        return not self.n_waiting and all(sequence.is_decoding for sequence in self._running)

    @property
    def n_open(self) -> int:
        """Sequences that wait or run."""
        return len(self._order)

    @property
    def n_waiting(self) -> int:
        return len(self._order) - len(self._running)

    @property
    def n_running(self) -> int:
        return len(self._running)

    @property
    def n_cells_used(self) -> int:
        return self._slots.tree.n_cells

    @property
    def n_retained(self) -> int:
        return self._slots.n_retained

    @property
    def n_evicted(self) -> int:
        return self._slots.n_evicted

    @property
    def slots(self) -> Slots:
        """The KV cache's books. Between two steps, what is retained there may be added to."""
        return self._slots

    def make_room(self, n_tokens: int) -> bool:
        """Evicts until so many more tokens could be retained; false if the running sequences leave no such room."""
        if not self._reuse.is_on or not self._can_free(n_tokens, self._running, keep=None):
            return False
        while self._slots.n_free_cells < self._n_reserved + n_tokens:
            if not self._slots.evict_one():
                return False
        return True

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence. Its prompt must fit into the context."""
        if len(sequence.tokens) > self._slots.n_ctx:
            raise ValueError(f"{len(sequence.tokens)} tokens can never fit into {self._slots.n_ctx}")
        self._order.add(sequence)

    def finish(self, sequence: Sequence) -> None:
        """Takes a sequence out, whatever its state; what it computed is retained for later prompts."""
        self._take_out(sequence, retain=self._reuse.is_on)

    def discard(self, sequence: Sequence) -> None:
        """As :meth:`finish`, but nothing of it is kept: what it computed may be wrong."""
        if sequence.slot is not None:
            self._slots.drop_checkpoints(sequence.slot, sequence.n_cached or 0)
        self._take_out(sequence, retain=False)

    def schedule(self, limits: StepLimits | None = None) -> StepPlan:
        """The next step. Its chunks are empty if nothing can be computed, which is so only when idle."""
        self._slots.drop_unlikely(self._slots_of(self._running))
        self._make_room()
        if self.n_waiting and (not self._is_admission_held or not self._running):
            self._admit()
        exact = any(sequence.exact for sequence in self._running)
        decoding = [sequence for sequence in self._running if sequence.is_decoding]
        n_spare = self._n_step(exact=exact) - len(self._running)
        chunks = []
        for sequence in decoding:
            n_forced = min(sequence.n_to_compute - 1, n_spare)
            n_spare -= n_forced
            chunks.append(self._chunk(sequence, n_forced + 1))
        prompts = [sequence for sequence in self._running if not sequence.is_decoding]
        n_drafts = 0
        if limits is not None and not prompts:
            n_drafts = min(n_spare, self._n_outputs - len(chunks), self._slots.n_free_cells - self._n_reserved)
            chunks = with_drafts(chunks, n_drafts, limits.token_cost)
            n_drafts -= sum(len(chunk.draft) for chunk in chunks)
        budget = self._prompt_budget(sum(c.n_tokens for c in chunks), limits, exact=exact) if prompts else 0
        for sequence in self._order.by_urgency(prompts):
            n_tokens = min(sequence.n_to_compute, budget)
            if n_tokens:
                chunks.append(self._chunk(sequence, n_tokens))
                budget -= n_tokens
        return StepPlan(self._slots.take_operations(), tuple(chunks), exact, n_drafts)

    def apply(self, plan: StepPlan, sampled: list[int], n_right: Mapping[Sequence, int] = _NONE_RIGHT) -> None:
        """Records that ``plan`` was computed and which token each chunk that wanted one got, in order.

        ``n_right``: how many guesses of a sequence's draft were right, where some were; the tokens behind the first are
        :meth:`follow`'s.
        """
        self._is_admission_held = False
        self._order.step()
        tokens = iter(sampled)
        for chunk in plan.chunks:
            sequence = chunk.sequence
            computed = sequence.tokens[chunk.start : chunk.start + chunk.n_tokens]
            if chunk.draft:
                computed += chunk.draft[: n_right.get(sequence, 0)]
                if len(computed) < chunk.n_tokens + len(chunk.draft):
                    self._slots.cut(chunk.slot, chunk.start + len(computed))
            self._slots.tree.append(chunk.slot, computed, exact=plan.exact)
            sequence.n_computed += len(computed)
            self._reuse.computed(sequence)
            self._order.charge(sequence, len(computed))
            if chunk.wants_logits:
                sequence.tokens.append(next(tokens))

    def follow(self, sequence: Sequence, token: int) -> None:
        """Goes on with a running sequence by one more token than a step usually leads to.

        A grammar forced it, and it is computed with the next step; or it was sampled behind a guess that was right.
        """
        sequence.tokens.append(token)

    def yield_room(self) -> bool:
        """Frees what is retained and a sequence's room, and lets none in until a step has been computed.

        False if at most one sequence is running.
        """
        self._is_admission_held = True
        if not self._preempt_one():
            return False
        self.drop_retained()
        return True

    def drop_retained(self) -> bool:
        """Frees all that is only kept for later prompts; false if nothing was."""
        had_any = self._slots.evict_one()
        while self._slots.evict_one():
            pass
        return had_any

    def check_integrity(self) -> None:
        """Raises AssertionError if the books don't agree with each other."""
        slots = self._slots_of(self._running)
        assert len(slots) == len(self._running), "a running sequence has no slot"
        assert len(set(slots)) == len(slots), "two sequences share a slot"
        self._slots.check_integrity(set(slots))
        assert len(self._running) <= self._max_running
        for sequence, slot in zip(self._running, slots, strict=True):
            assert self._slots.tree.tokens(slot) == sequence.tokens[: sequence.n_computed]
            stops = [sequence.n_computed, *sequence.checkpoints, len(sequence.tokens)]
            assert not sequence.checkpoints or stops == sorted(set(stops)), "a checkpoint has been passed"

    def _chunk(self, sequence: Sequence, n_tokens: int) -> Chunk:
        assert sequence.slot is not None
        wants_logits = n_tokens == sequence.n_pending
        is_decode = sequence.is_decoding
        return Chunk(sequence, sequence.slot, sequence.n_computed, n_tokens, wants_logits, is_decode)

    def _n_step(self, *, exact: bool) -> int:
        """Most tokens of a step."""
        return min(self._n_batch, self._exact_batch) if exact and self._exact_batch else self._n_batch

    def _prompt_budget(self, n_decoding: int, limits: StepLimits | None, *, exact: bool) -> int:
        n_room = self._n_step(exact=exact) - n_decoding
        # A seeded one's are always the same: where reused prefixes aren't exact, results depend on how a prompt is cut
        # into steps.
        if limits is None or (exact and self._exact_batch is not None):
            return n_room
        return min(n_room, limits.beside_decode if n_decoding else limits.alone)

    def _make_room(self) -> None:
        """Sees to it that all that running sequences still have to compute fits: evicts, then preempts."""
        while self._slots.n_free_cells < self._n_reserved:
            if not self._slots.evict_one() and not self._preempt_one():
                raise AssertionError("one sequence alone does not fit; it must not have been added")

    def _admit(self) -> None:
        """Gives slots to waiting sequences, in their order, while there is room or somebody must make way."""
        passed_over: set[Sequence] = set()
        n_passed_over: Counter[str] = Counter()
        closed_keys: set[str] = set()
        while True:
            sequence = self._order.next_waiting(passed_over, closed_keys)
            if sequence is None:
                return
            if self._reuse.is_computed_soon(sequence, self._running):
                passed_over.add(sequence)
                n_passed_over[sequence.key] += 1
                if n_passed_over[sequence.key] == MAX_PASSED_OVER:
                    closed_keys.add(sequence.key)
            elif not self._start(sequence, passed_over):
                return

    def _start(self, sequence: Sequence, passed_over: set[Sequence]) -> bool:
        """Gives a waiting sequence its slot, if need be another's; false if it has to wait on.

        Those that make way join the ``passed_over``: they don't come back in the same step.
        """
        while (scarce := self._try_start(sequence)) is not None:
            victims = self._victims_for(sequence, scarce)
            if not victims:
                return False
            for victim in victims:
                self._preempt(victim)
            passed_over.update(victims)
        return True

    def _try_start(self, sequence: Sequence) -> Scarce | None:
        """Gives a waiting sequence its slot; if that can't be done, says what there is too little of."""
        n_reused, source = self._reuse.match(sequence)
        if not self._can_free(len(sequence.tokens) - n_reused, self._running, keep=source):
            n_reused, source = 0, None
            if not self._can_free(len(sequence.tokens), self._running, keep=None):
                return "cells"
        if len(self._running) >= self._max_running:
            return "slots"
        n_pending = len(sequence.tokens) - n_reused
        while self._slots.n_free_cells < self._n_reserved + n_pending:
            if not self._slots.evict_one(keep=source):
                return "cells"
        if sequence.exact:
            self._free_ahead(keep=source)
        if sequence.n_cached is None:  # not one that comes back after it has made way
            self._slots.note_prompt(sequence.scope, sequence.tokens[:-1], source, n_reused, MIN_SHARED_TOKENS)
        self._reuse.begin(sequence, n_reused)
        slot = self._slots.take(sequence.scope, source, n_reused, sequence.left_slot)
        if slot is None:
            return "slots"
        self._forget_left_slot(sequence)
        sequence.slot = slot
        sequence.n_computed = n_reused
        if sequence.n_cached is None:
            sequence.n_cached = n_reused
        self._running.append(sequence)
        self._order.start(sequence)
        return None

    def _victims_for(self, sequence: Sequence, scarce: Scarce) -> list[Sequence]:
        """The running sequences that must make way for a waiting one; none if it has to wait all the same."""
        lower = self._order.of_lower_class(sequence)
        staying = list(self._running)
        victims: list[Sequence] = []
        # One makes way for a slot; for cells, as many as it takes.
        while not (victims if scarce == "slots" else self._can_free(len(sequence.tokens), staying, keep=None)):
            used = self._used_by(staying, scarce, sequence)
            victim = lower.pop(0) if lower else self._order.above_its_share(sequence, used, staying)
            if victim is None:
                return []
            staying.remove(victim)
            victims.append(victim)
        return victims

    def _used_by(self, running: list[Sequence], scarce: Scarce, sequence: Sequence | None = None) -> dict[str, float]:
        """The part of the slots or cells that each key has with what is ``running``, and with ``sequence``."""
        slots: dict[str, set[int]] = {}
        for other in running:
            if other.slot is not None:
                slots.setdefault(other.key, set()).add(other.slot)
        if scarce == "slots":
            used = {key: len(held) / self._max_running for key, held in slots.items()}
            if sequence is not None and sequence.key in used:  # one slot is never more than a key's share
                used[sequence.key] += 1 / self._max_running
            return used
        used = {key: self._slots.tree.n_held(held) / self._slots.n_ctx for key, held in slots.items()}
        if sequence is not None:
            used[sequence.key] = used.get(sequence.key, 0.0) + len(sequence.tokens) / self._slots.n_ctx
        return used

    def _free_ahead(self, *, keep: int | None) -> None:
        """Evicts until there is room for what may come while a seeded sequence runs."""
        n_cells = int(self._slots.n_ctx * EXACT_FREE_RATIO) + self._n_reserved
        while self._slots.n_free_cells < n_cells:
            if not self._slots.evict_one(keep=keep):
                return

    @property
    def _n_reserved(self) -> int:
        """Cells that the running sequences' known tokens still need."""
        return sum(sequence.n_pending for sequence in self._running)

    def _can_free(self, n_pending: int, staying: list[Sequence], *, keep: int | None) -> bool:
        """Whether there can be room for ``n_pending`` tokens beside the running sequences that are ``staying``."""
        n_needed = sum(sequence.n_pending for sequence in staying) + n_pending + HEADROOM_TOKENS * len(staying)
        return self._slots.can_free(n_needed, in_use=self._slots_of(staying), keep=keep)

    @staticmethod
    def _slots_of(sequences: list[Sequence]) -> list[int]:
        return [sequence.slot for sequence in sequences if sequence.slot is not None]

    def _preempt_one(self) -> bool:
        """Sends the sequence that is first to go back to the queue; false if at most one is running."""
        if len(self._running) < 2:
            return False
        self._preempt(self._order.first_to_go(self._used_by(self._running, "cells")))
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Sends a running sequence back to the queue. What it computed is retained while room lasts."""
        slot = self._leave_slot(sequence)
        if self._reuse.is_on:
            sequence.left_slot = slot
            self._slots.retain(slot, is_awaited=True)
        else:
            self._slots.release(slot)
        sequence.n_computed = 0
        sequence.checkpoints = []
        self._order.put_back(sequence)
        self.n_preempted += 1

    def _take_out(self, sequence: Sequence, *, retain: bool) -> None:
        self._order.remove(sequence)
        self._forget_left_slot(sequence)
        if sequence.slot is None:
            return
        slot = self._leave_slot(sequence)
        if retain:
            self._slots.retain(slot)
        else:
            self._slots.release(slot)

    def _forget_left_slot(self, sequence: Sequence) -> None:
        """A sequence that had made way won't come back for its cells."""
        if sequence.left_slot is not None:
            self._slots.no_longer_awaited(sequence.left_slot)
            sequence.left_slot = None

    def _leave_slot(self, sequence: Sequence) -> int:
        """Takes a sequence off those that run; the slot that it had."""
        assert sequence.slot is not None
        self._running.remove(sequence)
        slot, sequence.slot = sequence.slot, None
        return slot
