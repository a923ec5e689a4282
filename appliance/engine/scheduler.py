"""Decides what each step computes. It knows no C, no clock and no socket: plan, run, apply.

``schedule()`` returns a plan as plain data, the backend runs it, ``apply()`` records it. A step has a budget of
``n_batch`` tokens: one for each sequence that decodes, then chunks of prompts in order of arrival, so that a
long prompt never stops the others for longer than one chunk.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from appliance.engine.prefix import PrefixTree, common_prefix
from appliance.engine.sequence import Sequence

# Waiting for a prefix that another sequence is computing right now costs a step; it must save this much.
MIN_SHARED_TOKENS = 16
# Room left for each running sequence to go on before another is let in, lest it be preempted at once.
HEADROOM_TOKENS = 16
# How many waiting sequences one step looks past for one whose prefix isn't being computed.
MAX_PASSED_OVER = 16
# What is freed before a seeded sequence starts, as a part of all cells and slots: while it runs, freed cells would be
# taken out of order, and its attention rounds in the order of its cells.
EXACT_FREE_RATIO = 0.25


@dataclass(frozen=True, slots=True)
class Copy:
    """``target`` gets the first ``n_tokens`` tokens of ``source``."""

    source: int
    target: int
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Release:
    slot: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens ``start`` to ``start + n_tokens`` of a sequence; the last one is sampled if ``wants_logits``."""

    sequence: Sequence
    slot: int
    start: int
    n_tokens: int
    wants_logits: bool


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Memory operations in their order, then one batch."""

    memory: tuple[Copy | Release, ...]
    chunks: tuple[Chunk, ...]
    exact: bool

    @property
    def n_tokens(self) -> int:
        return sum(chunk.n_tokens for chunk in self.chunks)


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
    ) -> None:
        if max_running > n_seq_max:
            raise ValueError(f"max_running={max_running} needs as many slots, there are {n_seq_max}")
        if max_running > min(n_batch, exact_batch or n_batch):
            raise ValueError(f"max_running={max_running} does not fit into a step of {exact_batch or n_batch} tokens")
        self._n_ctx = n_ctx
        self._n_batch = n_batch
        self._n_seq_max = n_seq_max
        self._exact_batch = exact_batch
        self._max_running = max_running
        self._exact_reuse = exact_reuse
        self._prefix_reuse = prefix_reuse
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._free_slots = list(reversed(range(n_seq_max)))
        self._retained: dict[int, None] = {}  # slots, least recently used first
        self._tree = PrefixTree()
        self._memory: list[Copy | Release] = []
        self._is_admission_held = False

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._running

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @property
    def n_running(self) -> int:
        return len(self._running)

    @property
    def n_cells_used(self) -> int:
        return self._tree.n_cells

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence. Its prompt must fit into the context."""
        if len(sequence.tokens) > self._n_ctx:
            raise ValueError(f"{len(sequence.tokens)} tokens can never fit into {self._n_ctx}")
        self._waiting.append(sequence)

    def finish(self, sequence: Sequence) -> None:
        """Takes a sequence out, whatever its state; what it computed is retained for later prompts."""
        slot = self._take_out(sequence)
        if slot is not None:
            # Even where nothing is reused: freed cells would be taken by those that run, out of their order.
            self._retained[slot] = None

    def discard(self, sequence: Sequence) -> None:
        """As :meth:`finish`, but nothing of it is kept: what it computed may be wrong."""
        slot = self._take_out(sequence)
        if slot is not None:
            self._release(slot)

    def schedule(self) -> StepPlan:
        """The next step. Its chunks are empty if nothing can be computed, which is so only when idle."""
        if not self._prefix_reuse and not self._runs_exact:
            self.drop_retained()
        self._make_room()
        if not self._is_admission_held or not self._running:
            self._admit()
        exact = self._runs_exact
        budget = min(self._n_batch, self._exact_batch or self._n_batch) if exact else self._n_batch
        chunks = []
        for sequence in sorted(self._running, key=lambda s: s.n_pending > 1):  # stable: arrival order within
            n_tokens = min(sequence.n_pending, budget)
            if n_tokens == 0:
                continue
            assert sequence.slot is not None
            wants_logits = n_tokens == sequence.n_pending
            chunks.append(Chunk(sequence, sequence.slot, sequence.n_computed, n_tokens, wants_logits))
            budget -= n_tokens
        memory, self._memory = tuple(self._memory), []
        return StepPlan(memory, tuple(chunks), exact)

    def apply(self, plan: StepPlan, sampled: list[int]) -> None:
        """Records that ``plan`` was computed and which token each chunk that wanted one got, in order."""
        self._is_admission_held = False
        tokens = iter(sampled)
        for chunk in plan.chunks:
            sequence = chunk.sequence
            computed = sequence.tokens[chunk.start : chunk.start + chunk.n_tokens]
            self._tree.append(chunk.slot, computed, exact=plan.exact)
            sequence.n_computed += chunk.n_tokens
            if chunk.wants_logits:
                sequence.tokens.append(next(tokens))

    def yield_room(self) -> bool:
        """Sends the youngest sequence back to the queue, and lets none in until a step has been computed.

        False if at most one is running.
        """
        self._is_admission_held = True
        return self._preempt_youngest()

    def drop_retained(self) -> bool:
        """Frees all that is only kept for later prompts; false if nothing was."""
        had_any = bool(self._retained)
        while self._retained:
            self._evict_one()
        return had_any

    def check_integrity(self) -> None:
        """Raises AssertionError if the books don't agree with each other."""
        running = {sequence.slot for sequence in self._running}
        assert None not in running, "a running sequence has no slot"
        assert len(running) == len(self._running), "two sequences share a slot"
        assert not running & set(self._retained), "a retained slot is running"
        assert not (running | set(self._retained)) & set(self._free_slots), "a slot in use is free"
        assert self._tree.slots() == running | set(self._retained), "the tree holds other slots"
        assert 0 <= self._tree.n_cells <= self._n_ctx, "more cells in use than there are"
        assert len(self._running) <= self._max_running
        for sequence in self._running:
            assert sequence.slot is not None
            assert self._tree.tokens(sequence.slot) == sequence.tokens[: sequence.n_computed]
        if self.is_idle and not self._retained:
            assert self._tree.n_cells == 0, "an idle engine holds cells"

    def _make_room(self) -> None:
        """Sees to it that all that running sequences still have to compute fits: evicts, then preempts."""
        while self._n_free < self._n_reserved:
            if not self._evict_one() and not self._preempt_youngest():
                raise AssertionError("one sequence alone does not fit; it must not have been added")

    def _admit(self) -> None:
        """Gives slots to waiting sequences, in their order, while there is room."""
        n_passed_over = 0
        for sequence in list(self._waiting):
            if len(self._running) >= self._max_running:
                return
            if self._is_computed_soon(sequence):
                n_passed_over += 1
                if n_passed_over == MAX_PASSED_OVER:
                    return
                continue
            if not self._try_start(sequence):
                return
            self._waiting.remove(sequence)

    def _is_computed_soon(self, sequence: Sequence) -> bool:
        """Whether a running sequence is about to compute a longer prefix of this one than is there now."""
        if not self._may_reuse(sequence) or not any(other.n_pending > 1 for other in self._running):
            return False
        wanted = sequence.tokens[:-1]
        n_now, _ = self._tree.match(sequence.scope, wanted, exact=sequence.exact)
        for other in self._running:
            if other.scope != sequence.scope or (sequence.exact and not other.exact) or other.n_pending < 2:
                continue
            n_shared = common_prefix(other.tokens[:-1], wanted, 0)
            if other.n_computed < n_shared:
                n_saved = n_shared - n_now
                if n_saved >= MIN_SHARED_TOKENS or (n_saved > 0 and other.request_id == sequence.request_id):
                    return True
        return False

    def _may_reuse(self, sequence: Sequence) -> bool:
        return self._prefix_reuse and (self._exact_reuse or not sequence.exact)

    def _try_start(self, sequence: Sequence) -> bool:
        n_reused, source = 0, None
        if self._may_reuse(sequence):
            # The last token is always computed: its logits are wanted.
            n_reused, source = self._tree.match(sequence.scope, sequence.tokens[:-1], exact=sequence.exact)
        n_pending = len(sequence.tokens) - n_reused
        if not self._can_free(n_pending, keep=source):
            n_reused, source, n_pending = 0, None, len(sequence.tokens)
            if not self._can_free(n_pending, keep=None):
                return False
        while self._n_free < self._n_reserved + n_pending:
            if not self._evict_one(keep=source):
                return False
        if sequence.exact and not self._runs_exact:
            self._free_ahead(keep=source)
        slot = self._take_slot(sequence, source, n_reused)
        if slot is None:
            return False
        sequence.slot = slot
        sequence.n_computed = n_reused
        if sequence.n_cached is None:
            sequence.n_cached = n_reused
        self._running.append(sequence)
        return True

    def _take_slot(self, sequence: Sequence, source: int | None, n_reused: int) -> int | None:
        """A slot that holds the first ``n_reused`` tokens of ``sequence``, or None if all are running."""
        if source in self._retained:
            if len(self._tree.tokens(source)) == n_reused:
                del self._retained[source]  # all of it is wanted: go on in place
                return source
            self._retained[source] = self._retained.pop(source)  # used most recently
        if not self._free_slots and not self._evict_one(keep=source):
            return None
        slot = self._free_slots.pop()
        if source is None:
            self._tree.open(slot, sequence.scope)
        else:
            self._tree.fork(slot, source, n_reused)
            self._memory.append(Copy(source, slot, n_reused))
        return slot

    @property
    def _runs_exact(self) -> bool:
        return any(sequence.exact for sequence in self._running)

    def _free_ahead(self, *, keep: int | None) -> None:
        """Evicts until there is room for what may come while a seeded sequence runs."""
        n_cells = int(self._n_ctx * EXACT_FREE_RATIO) + self._n_reserved
        n_slots = int(self._n_seq_max * EXACT_FREE_RATIO)
        while (self._n_free < n_cells or len(self._free_slots) < n_slots) and self._evict_one(keep=keep):
            pass

    @property
    def _n_free(self) -> int:
        return self._n_ctx - self._tree.n_cells

    @property
    def _n_reserved(self) -> int:
        """Cells that the running sequences' known tokens still need."""
        return sum(sequence.n_pending for sequence in self._running)

    def _can_free(self, n_pending: int, *, keep: int | None) -> bool:
        """Whether evicting what is retained, but ``keep``, makes room for ``n_pending`` tokens more."""
        held = {sequence.slot for sequence in self._running if sequence.slot is not None}
        if keep is not None:
            held.add(keep)
        n_needed = self._n_reserved + n_pending + HEADROOM_TOKENS * len(self._running)
        return self._n_ctx - self._tree.n_held(held) >= n_needed

    def _evict_one(self, keep: int | None = None) -> bool:
        """Frees the slot that was retained longest ago; false if there is none but ``keep``."""
        for slot in self._retained:
            if slot != keep:
                del self._retained[slot]
                self._release(slot)
                return True
        return False

    def _preempt_youngest(self) -> bool:
        """Sends the sequence that arrived last back to the queue; false if at most one is running."""
        if len(self._running) < 2:
            return False
        sequence = self._running[-1]
        slot = self._take_out(sequence)
        assert slot is not None
        self._release(slot)
        sequence.n_computed = 0
        self._waiting.appendleft(sequence)
        return True

    def _take_out(self, sequence: Sequence) -> int | None:
        """Removes a sequence from where it is; the slot that it held."""
        if sequence.slot is None:
            self._waiting.remove(sequence)
            return None
        self._running.remove(sequence)
        slot, sequence.slot = sequence.slot, None
        return slot

    def _release(self, slot: int) -> None:
        self._tree.release(slot)
        self._free_slots.append(slot)
        self._memory.append(Release(slot))
