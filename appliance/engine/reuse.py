"""What a sequence takes over of what others have computed, and what it leaves for later ones."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from appliance.engine import checkpoints
from appliance.engine.order import FairOrder
from appliance.engine.prefix import common_prefix
from appliance.engine.sequence import Sequence
from appliance.engine.slots import Slots

# Waiting for a prefix that another sequence is computing right now costs a step; it must save this much.
MIN_SHARED_TOKENS = 16


class PrefixReuse:
    def __init__(self, slots: Slots, order: FairOrder[Sequence], *, is_on: bool, is_exact: bool, can_cut: bool) -> None:
        """``is_exact``: sequences with a seed may reuse, too.

        ``can_cut``: the memory of a slot can be cut at any position; else prompts stop at checkpoints.
        """
        self.is_on = is_on
        self._is_exact = is_exact
        self._makes_checkpoints = is_on and not can_cut
        self._slots = slots
        self._order = order

    def match(self, sequence: Sequence) -> tuple[int, int | None]:
        """How many of its first tokens it can take over, and from which slot (None at 0)."""
        if not self._may_reuse(sequence):
            return 0, None
        # The last token is always computed: its logits are wanted.
        return self._slots.match(sequence.scope, sequence.tokens[:-1], exact=sequence.exact)

    def is_computed_soon(self, sequence: Sequence, running: Iterable[Sequence]) -> bool:
        """Whether a running sequence is about to compute a longer prefix of this one than is there now.

        It stops there, if that is needed. One of a lower class isn't about to: its prompt has to wait for all others.
        """
        computing = [other for other in running if other.n_pending > 1]
        if not computing or not self._may_reuse(sequence):
            return False
        wanted = sequence.tokens[:-1]
        n_now, _ = self.match(sequence)
        for other in computing:
            if other.scope != sequence.scope or (sequence.exact and not other.exact):
                continue
            if self._order.comes_before(sequence, other) or (self._makes_checkpoints and other.exact):
                continue
            n_shared = common_prefix(other.tokens[:-1], wanted, 0)
            if other.n_computed < n_shared:
                n_saved = n_shared - n_now
                if n_saved >= MIN_SHARED_TOKENS or (n_saved > 0 and other.request_id == sequence.request_id):
                    if self._makes_checkpoints and n_shared not in other.checkpoints:
                        bisect.insort(other.checkpoints, n_shared)
                    return True
        return False

    def begin(self, sequence: Sequence, n_reused: int) -> None:
        """A sequence is about to take its slot: where it will stop is decided."""
        if self._makes_checkpoints and not sequence.exact:  # the steps of a seeded one are always the same
            prompt = sequence.tokens[: sequence.n_prompt]
            n_known, _ = self._slots.tree.match(sequence.scope, prompt[:-1], exact=False)
            sequence.checkpoints = checkpoints.positions(len(prompt), n_reused=n_reused, n_known=n_known)

    def computed(self, sequence: Sequence) -> None:
        """Some more of a running sequence's tokens have been computed."""
        if sequence.checkpoints and sequence.checkpoints[0] == sequence.n_computed:
            assert sequence.slot is not None
            del sequence.checkpoints[0]
            self._slots.keep_checkpoint(sequence.slot)

    def _may_reuse(self, sequence: Sequence) -> bool:
        return self.is_on and (self._is_exact or not sequence.exact)
