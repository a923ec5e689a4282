"""How likely guesses are right, by how often they have been."""

from __future__ import annotations

# Before any was seen.
PRIOR = 0.8
# Most guesses in a row.
MAX_DRAFT = 16


class Acceptance:
    """The chance that a guess is right if those before it are. ``smoothing``: how much of it each one replaces."""

    def __init__(self, chance: float = PRIOR, *, smoothing: float = 0.1) -> None:
        self.chance = chance
        self._smoothing = smoothing

    def observe(self, *, is_right: bool) -> None:
        self.move(is_right, self._smoothing)

    def move(self, towards: float, part: float) -> None:
        """Goes a part of the way to another chance."""
        self.chance += part * (towards - self.chance)

    def n_likely(self, n_most: int, least_chance: float) -> int:
        """How many guesses in a row, up to ``n_most``, are all right with at least this chance."""
        chance, n_tokens = self.chance, 0
        while n_tokens < min(n_most, MAX_DRAFT) and chance > least_chance:
            n_tokens += 1
            chance *= self.chance
        return n_tokens
