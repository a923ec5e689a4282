"""The KV cache's books: slots, the cells they hold, and what is kept in them for later prompts.

Every change is also noted as an operation for the backend, in order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from appliance.engine.prefix import PrefixTree
from appliance.engine.retention import Retention


@dataclass(frozen=True, slots=True)
class Copy:
    """``target`` gets the first ``n_tokens`` tokens of ``source``."""

    source: int
    target: int
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Release:
    slot: int


class Slots:
    """A slot is free, or in use by a running sequence, or retained after its sequence has left it."""

    def __init__(self, *, n_ctx: int, n_seq_max: int) -> None:
        self.n_ctx = n_ctx
        self.n_seq_max = n_seq_max
        self.n_evicted = 0
        self.tree = PrefixTree()
        self._retention = Retention(n_ctx)
        self._may_be_above_limit = False
        self._scopes: dict[int, str] = {}
        self._free = list(reversed(range(n_seq_max)))
        self._retained: dict[int, None] = {}  # least recently used first
        self._awaited: set[int] = set()  # those of the retained whose sequence has only made way for another
        self._operations: list[Copy | Release] = []

    @property
    def n_free_cells(self) -> int:
        return self.n_ctx - self.tree.n_cells

    @property
    def n_retained(self) -> int:
        return len(self._retained)

    def take(self, scope: str, source: int | None, n_reused: int) -> int | None:
        """A slot that holds the first ``n_reused`` tokens of ``source``, or None if all are in use."""
        if source in self._retained:
            if len(self.tree.tokens(source)) == n_reused:
                self._leave_retained(source)  # all of it is wanted: go on in place
                return source
            self._retained[source] = self._retained.pop(source)  # used most recently
        if not self._free and not self.evict_one(keep=source):
            return None
        slot = self._free.pop()
        self._scopes[slot] = scope
        if source is None:
            self.tree.open(slot, scope)
        else:
            self.tree.fork(slot, source, n_reused)
            self._operations.append(Copy(source, slot, n_reused))
        return slot

    def retain(self, slot: int, *, is_awaited: bool = False) -> None:
        """Keeps what a slot holds until its room is wanted; ``is_awaited``: its sequence waits to go on with it."""
        self._retained[slot] = None
        if is_awaited:
            self._awaited.add(slot)
        self._may_be_above_limit = True

    def no_longer_awaited(self, slot: int) -> None:
        """As if the slot had been retained after its sequence's end. It may have been freed meanwhile."""
        self._awaited.discard(slot)
        self._may_be_above_limit = True

    def release(self, slot: int) -> None:
        """Frees a slot that is in use."""
        self.tree.release(slot)
        self._free.append(slot)
        self._operations.append(Release(slot))

    def evict_one(self, keep: int | None = None) -> bool:
        """Frees the slot that was retained longest ago; false if there is none but ``keep``."""
        for slot in self._retained:
            if slot != keep:
                self._evict(slot)
                return True
        return False

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
        unlikely = [slot for slot in self._retained if slot not in self._awaited]
        for slot in unlikely[:-1]:
            if self.tree.n_cells - n_in_use <= self._retention.limit:
                return
            self._retention.remember(self._scopes[slot], self.tree.tokens(slot))
            self._evict(slot)

    def _evict(self, slot: int) -> None:
        self._leave_retained(slot)
        self.release(slot)
        self.n_evicted += 1

    def _leave_retained(self, slot: int) -> None:
        del self._retained[slot]
        self._awaited.discard(slot)

    def can_free(self, n_cells: int, *, in_use: Iterable[int], keep: int | None) -> bool:
        """Whether evicting all but ``keep`` leaves ``n_cells`` beside what the slots ``in_use`` hold."""
        held = set(in_use)
        if keep is not None:
            held.add(keep)
        return self.n_ctx - self.tree.n_held(held) >= n_cells

    def take_operations(self) -> tuple[Copy | Release, ...]:
        """What the backend has to do since the last call."""
        operations, self._operations = tuple(self._operations), []
        return operations

    def check_integrity(self, in_use: set[int]) -> None:
        """Raises AssertionError if the books don't agree with each other, or with the slots that are ``in_use``."""
        retained, free = set(self._retained), set(self._free)
        assert not in_use & retained, "a retained slot is in use"
        assert self._awaited <= retained, "an awaited slot is not retained"
        assert not (in_use | retained) & free, "a slot in use is free"
        assert len(free) == len(self._free), "a slot is free twice"
        assert self.tree.slots() == in_use | retained, "the tree holds other slots"
        assert 0 <= self.tree.n_cells <= self.n_ctx, "more cells in use than there are"
        if not in_use and not retained:
            assert self.tree.n_cells == 0, "cells are held by no slot"
