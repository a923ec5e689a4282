"""Which of llama.cpp's sequences each slot is."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import Any

from appliance.engine.llama.library import lib


class SequenceIds:
    """The slot's own number, but for recurrent models.

    Of those, llama.cpp computes together only sequences whose numbers follow each other in the batch
    (``llama_memory_recurrent::init_batch``); else each step would go through all weights once for each sequence.
    """

    def __init__(self, memory: Any, n_seq_max: int, *, is_recurrent: bool) -> None:
        """The last of ``n_seq_max`` sequences must hold nothing between steps."""
        self._memory = memory
        self._is_recurrent = is_recurrent
        self._spare = n_seq_max - 1
        self._ids = list(range(n_seq_max))
        self._slots = list(range(n_seq_max))

    def __getitem__(self, slot: int) -> int:
        return self._ids[slot]

    def line_up(self, slots: SequenceOf[int]) -> None:
        """Sees to it that the numbers of ``slots`` follow each other, if that matters. No state is copied."""
        if not self._is_recurrent:
            return
        first = min(self._ids[slots[0]], self._spare - len(slots))
        for number, slot in enumerate(slots, first):
            if self._ids[slot] != number:
                self._swap(self._ids[slot], number)

    def _swap(self, one: int, other: int) -> None:
        """Whatever either holds, and if it is nothing."""
        for source, target in ((one, self._spare), (other, one), (self._spare, other)):
            lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        lib.llama_memory_seq_rm(self._memory, self._spare, -1, -1)
        slot, other_slot = self._slots[one], self._slots[other]
        self._ids[slot], self._ids[other_slot] = other, one
        self._slots[one], self._slots[other] = other_slot, slot
