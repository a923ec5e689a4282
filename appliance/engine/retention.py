"""How much of the KV cache is worth keeping for later prompts.

Attention passes over retained cells in every step, so what is never asked for again should not stay. Whether it is
shows only later: the limit falls while prompts begin with nothing that was retained, and goes back to the whole cache
once one does, or would have: what was dropped is remembered for a while, by its tokens.
"""

from __future__ import annotations

from collections import deque

from appliance.engine.prefix import PrefixTree

# The limit falls no further than this part of all cells; and the latest sequence is kept whatever its length.
LEAST_RATIO = 1 / 64
# The limit's fall with each prompt that found nothing: half after 14 of them.
_DECAY = 0.95
_MAX_REMEMBERED = 256


class Retention:
    def __init__(self, n_ctx: int) -> None:
        self._n_ctx = n_ctx
        self._limit = float(n_ctx)
        self._dropped = PrefixTree()
        self._order: deque[int] = deque()  # numbers that stand for slots in the tree of what was dropped
        self._n_dropped = 0

    @property
    def limit(self) -> int:
        """How many cells may be retained."""
        return int(self._limit)

    def saw_prompt(self, *, found: bool) -> None:
        """A prompt has started; ``found``: with something that was retained, or dropped too early."""
        self._limit = self._n_ctx if found else max(self._limit * _DECAY, self._n_ctx * LEAST_RATIO)

    def remember(self, scope: str, tokens: list[int]) -> None:
        """These tokens are dropped."""
        if len(self._order) == _MAX_REMEMBERED:
            self._dropped.release(self._order.popleft())
        self._dropped.open(self._n_dropped, scope)
        self._dropped.append(self._n_dropped, tokens, exact=True)
        self._order.append(self._n_dropped)
        self._n_dropped += 1

    def n_remembered(self, scope: str, tokens: list[int]) -> int:
        """How many of a prompt's first tokens were dropped."""
        return self._dropped.match(scope, tokens, exact=False)[0]
