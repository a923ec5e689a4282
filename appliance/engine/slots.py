"""The KV cache's books: slots, the cells they hold, and what is kept in them for later prompts.

Every change is also noted as an operation for the backend, in order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from appliance.engine.prefix import PrefixTree
from appliance.engine.retention import Retention

# Fewer tokens of a prefix are computed as soon as they would be read from a disk.
MIN_SAVED_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Copy:
    """``target`` gets the first ``n_tokens`` tokens of ``source``: all of them if the memory can't be cut."""

    source: int
    target: int
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Cut:
    """``slot`` keeps its first ``n_tokens`` tokens."""

    slot: int
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Release:
    slot: int


Operation = Copy | Cut | Release


class Slots:
    """A slot is free, or in use by a running sequence, or retained after its sequence has left it."""

    def __init__(self, *, n_ctx: int, n_seq_max: int, can_cut: bool = True) -> None:
        """``can_cut``: the memory of a slot can be cut at any position. If not, only whole slots are reused."""
        self.n_ctx = n_ctx
        self.n_seq_max = n_seq_max
        self.n_evicted = 0
        self.tree = PrefixTree()
        self._can_cut = can_cut
        self._retention = Retention(n_ctx)
        self._may_be_above_limit = False
        self._scopes: dict[int, str] = {}
        self._free = list(reversed(range(n_seq_max)))
        self._retained: dict[int, None] = {}  # least recently used first
        self._awaited: set[int] = set()  # those of the retained whose sequence has only made way for another
        # Those of the retained that go before all others: checkpoints from which nothing has gone on yet, and the ends
        # of sequences from which one has.
        self._expendable: set[int] = set()
        # Those in which a prefix that would be worth a file was used a second time; and those of the retained that are
        # in a file, or need not be.
        self._reused: set[int] = set()
        self._settled: set[int] = set()
        self._operations: list[Operation] = []

    @property
    def n_free_cells(self) -> int:
        return self.n_ctx - self.tree.n_cells

    @property
    def n_retained(self) -> int:
        return len(self._retained)

    def match(self, scope: str, tokens: list[int], *, exact: bool) -> tuple[int, int | None]:
        """The length of the longest prefix of ``tokens`` that can be reused, and a slot that holds it (None at 0)."""
        if self._can_cut:
            return self.tree.match(scope, tokens, exact=exact)
        return self.tree.match_end(scope, tokens, exact=exact)

    def take(self, scope: str, source: int | None, n_reused: int, left_slot: int | None = None) -> int | None:
        """A slot that holds the first ``n_reused`` tokens of ``source``, or None if all are in use.

        ``left_slot``: where the sequence was when it made way for another.
        """
        if source is not None and n_reused >= MIN_SAVED_TOKENS:
            self._reused.add(source)
        if source in self._retained:
            if len(self.tree.tokens(source)) == n_reused and self._may_go_on_in(source, left_slot):
                self._leave_retained(source)
                return source
            self._note_use(source)
        if not self._free and not self.evict_one(keep=source):
            return None
        slot = self._free.pop()
        self._scopes[slot] = scope
        if source is None:
            self.tree.open(slot, scope)
        else:
            self.tree.fork(slot, source, n_reused)
            if source in self._reused:
                self._reused.add(slot)
            self._operations.append(Copy(source, slot, n_reused))
        return slot

    def _may_go_on_in(self, source: int, left_slot: int | None) -> bool:
        """Whether a sequence that wants all of a retained slot may have the slot itself."""
        if self._can_cut or (source == left_slot and source in self._awaited):
            return True
        # What it holds now can't be had back: another one, while there is one.
        return not self._free and self._least_useful(keep=source) is None

    def _note_use(self, slot: int) -> None:
        """A copy of a retained slot is about to be taken."""
        self._retained[slot] = self._retained.pop(slot)  # used most recently
        if not self._can_cut:
            # Its first use is mostly a chat's next turn, and then the last one.
            (self._expendable.discard if self.tree.is_continued(slot) else self._expendable.add)(slot)

    def keep_checkpoint(self, slot: int) -> None:
        """Retains a copy of what ``slot`` holds now, unless there is one, or no slot to be had for it."""
        if not self._retained.keys().isdisjoint(self.tree.beside(slot)):
            return
        if not self._free:
            other = self._least_useful(keep=slot)
            if other is None:
                return
            self._evict(other)
        checkpoint = self._free.pop()
        self._scopes[checkpoint] = self._scopes[slot]
        n_tokens = len(self.tree.tokens(slot))
        self.tree.fork(checkpoint, slot, n_tokens)
        self._operations.append(Copy(slot, checkpoint, n_tokens))
        self._expendable.add(checkpoint)
        self.retain(checkpoint)

    def drop_checkpoints(self, slot: int, start: int) -> None:
        """Frees what is retained of the tokens of ``slot`` behind the first ``start``."""
        for other in self.tree.ends_on_the_way(slot, start) & self._retained.keys():
            self._evict(other)

    def retain(self, slot: int, *, is_awaited: bool = False) -> None:
        """Keeps what a slot holds until its room is wanted; ``is_awaited``: its sequence waits to go on with it."""
        self._retained[slot] = None
        self._settled.discard(slot)
        if is_awaited:
            self._awaited.add(slot)
        self._may_be_above_limit = True

    def cut(self, slot: int, n_tokens: int) -> None:
        """Frees the cells of guesses behind a slot's first ``n_tokens`` tokens. They are in no books."""
        self._operations.append(Cut(slot, n_tokens))

    def no_longer_awaited(self, slot: int) -> None:
        """As if the slot had been retained after its sequence's end. It may have been freed meanwhile."""
        self._awaited.discard(slot)
        self._may_be_above_limit = True

    def release(self, slot: int) -> None:
        """Frees a slot that is in use."""
        self.tree.release(slot)
        self._free.append(slot)
        self._reused.discard(slot)
        self._operations.append(Release(slot))

    def evict_one(self, keep: int | None = None) -> bool:
        """Frees the slot that was retained longest ago; false if there is none but ``keep``.

        One that is expendable goes first.
        """
        slot = min((slot for slot in self._retained if slot != keep), key=self._usefulness, default=None)
        if slot is None:
            return False
        self._evict(slot)
        return True

    def note_prompt(self, scope: str, tokens: list[int], source: int | None, n_reused: int, n_least: int) -> None:
        """A prompt is about to take ``n_reused`` tokens of ``source``; fewer than ``n_least`` are worth nothing."""
        found = source in self._retained and n_reused >= n_least
        if not found:
            found = self._retention.n_remembered(scope, tokens) >= n_reused + n_least
        self._retention.saw_prompt(found=found)

    def drop_unlikely(self, in_use: Iterable[int]) -> None:
        """Frees retained slots, longest unused first, until no more cells are retained than is worth it."""
        if not self._may_be_above_limit:
            return
        self._may_be_above_limit = False
        n_in_use = self.tree.n_held({*in_use, *self._awaited})
        unlikely = sorted((slot for slot in self._retained if slot not in self._awaited), key=self._usefulness)
        for slot in unlikely[:-1]:
            if self.tree.n_cells - n_in_use <= self._retention.limit:
                return
            if not self.tree.is_continued(slot):
                self._retention.remember(self._scopes[slot], self.tree.tokens(slot))
            self._evict(slot)

    def _least_useful(self, keep: int) -> int | None:
        """The retained slot to do without that nobody waits for, if there is one but ``keep``."""
        slots = (slot for slot in self._retained if slot != keep and slot not in self._awaited)
        return min(slots, key=self._usefulness, default=None)

    def _usefulness(self, slot: int) -> bool:
        """Of two retained slots that are as useful, the least recently used one goes first."""
        return slot not in self._expendable

    def _evict(self, slot: int) -> None:
        self._leave_retained(slot)
        self.release(slot)
        self.n_evicted += 1

    def _leave_retained(self, slot: int) -> None:
        del self._retained[slot]
        self._awaited.discard(slot)
        self._expendable.discard(slot)

    def scope(self, slot: int) -> str:
        return self._scopes[slot]

    def next_to_save(self, *, only_reused: bool) -> int | None:
        """The slot that was retained last, of those that may be worth a file; None: there is none.

        While prompts have nothing in common, those that nobody has come back to aren't.
        """
        may_be_new = not only_reused and self._retention.limit * 2 >= self.n_ctx
        unsettled = (slot for slot in reversed(self._retained) if slot not in self._settled)
        return next((slot for slot in unsettled if may_be_new or slot in self._reused), None)

    def settle(self, slot: int) -> None:
        """A retained slot is in a file, or need not be."""
        self._settled.add(slot)

    def unsettle(self) -> None:
        """As if none had been looked at."""
        self._settled.clear()

    def can_free(self, n_cells: int, *, in_use: Iterable[int], keep: int | None) -> bool:
        """Whether evicting all but ``keep`` leaves ``n_cells`` beside what the slots ``in_use`` hold."""
        held = set(in_use)
        if keep is not None:
            held.add(keep)
        return self.n_ctx - self.tree.n_held(held) >= n_cells

    def take_operations(self) -> tuple[Operation, ...]:
        """What the backend has to do since the last call."""
        operations, self._operations = tuple(self._operations), []
        return operations

    def check_integrity(self, in_use: set[int]) -> None:
        """Raises AssertionError if the books don't agree with each other, or with the slots that are ``in_use``."""
        retained, free = set(self._retained), set(self._free)
        assert not in_use & retained, "a retained slot is in use"
        assert self._awaited <= retained, "an awaited slot is not retained"
        assert self._expendable <= retained, "an expendable slot is not retained"
        assert not (in_use | retained) & free, "a slot in use is free"
        assert len(free) == len(self._free), "a slot is free twice"
        assert self.tree.slots() == in_use | retained, "the tree holds other slots"
        assert 0 <= self.tree.n_cells <= self.n_ctx, "more cells in use than there are"
        if not in_use and not retained:
            assert self.tree.n_cells == 0, "cells are held by no slot"
