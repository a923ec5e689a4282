"""A draft model that knows the alphabet, like the fake model, and keeps the books of what it has computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from appliance.engine.sequence import Sequence


class FakeDrafter:
    """It guesses the letter behind the last one; ``is_wrong`` says of which tokens it doesn't."""

    def __init__(self, *, wrong_behind: str = "", prompt_s: float = 0.0, round_s: float = 0.0) -> None:
        """It takes ``prompt_s`` a token to catch up and ``round_s`` a guess of all, by its own ``clock``."""
        self.clock = 0.0
        self.n_computed: dict[Sequence, int] = {}
        self.asked: list[dict[Sequence, int]] = []
        self.caught_up: list[int] = []
        self._wrong_behind = wrong_behind.encode()
        self._prompt_s = prompt_s
        self._round_s = round_s

    def n_behind(self, sequence: Sequence) -> int:
        return len(sequence.tokens) - self.n_computed.get(sequence, 0)

    def catch_up(self, sequences: Iterable[Sequence], n_tokens: int) -> int:
        n_done = 0
        for sequence in sequences:
            n_known = min(self.n_computed.get(sequence, 0), len(sequence.tokens) - 1)
            n_part = min(len(sequence.tokens) - 1 - n_known, n_tokens - n_done)
            self.n_computed[sequence] = n_known + n_part
            n_done += n_part
        self.clock += n_done * self._prompt_s
        self.caught_up.append(n_done)
        return n_done

    def draft(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        ready = {one: n for one, n in wanted.items() if self.n_computed[one] == len(one.tokens) - 1}
        self.asked.append(ready)
        self.clock += max(ready.values(), default=0) * self._round_s
        return {sequence: self._guess(sequence.tokens[-1], n_tokens) for sequence, n_tokens in ready.items()}

    def forget(self, sequence: Sequence) -> None:
        self.n_computed.pop(sequence, None)

    def _guess(self, last: int, n_tokens: int) -> list[int]:
        guesses: list[int] = []
        for _ in range(n_tokens):
            right = last + 1 if ord("a") <= last < ord("z") else 0 if last == ord("z") else ord("a")
            last = ord("?") if last in self._wrong_behind else right
            guesses.append(last)
        return guesses
