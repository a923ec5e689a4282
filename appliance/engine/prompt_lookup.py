"""Prompt lookup: what follows is guessed to be what followed the same tokens before.

Answers repeat what stands in their prompts: names, code, quotations.
"""

from __future__ import annotations

from appliance.engine.acceptance import Acceptance

# So many tokens must agree with earlier ones before what followed those is looked at,
_N_GRAM = 4
# and so many before it is computed: shorter agreements are mostly chance.
_MIN_MATCH = 6
# Of a long prompt only so much of its end is looked through.
_MAX_INDEXED = 16_384


class PromptLookup:
    """Guesses how one sequence goes on. It follows ``tokens``, a list that grows behind the prompt's ``n_prompt``."""

    def __init__(self, tokens: list[int], n_prompt: int) -> None:
        self._tokens = tokens
        self._n_seen = n_prompt - 1
        # Where each n-gram ends for the last time, as the index of the token behind it; None: nobody has asked yet.
        self._behind: dict[tuple[int, ...], int] | None = None
        # The token that is guessed to come next is that at this index; so many before both agree.
        self._source: int | None = None
        self._n_match = 0
        # Of guesses behind agreements that are long enough.
        self._acceptance = Acceptance()

    def draft(self, n_most: int, least_chance: float) -> list[int]:
        """Up to ``n_most`` tokens that may come next, as long as the chance that they are right is high enough."""
        self._catch_up()
        if self._source is None or self._n_match < _MIN_MATCH:
            return []
        n_tokens = self._acceptance.n_likely(n_most, least_chance)
        known = self._tokens[self._source : self._source + n_tokens]
        # What reaches its own beginning repeats itself: on it goes.
        return [known[index % len(known)] for index in range(n_tokens)]

    def _catch_up(self) -> None:
        """Looks at the tokens that have come since, and whether they were as guessed."""
        tokens = self._tokens
        if self._behind is None:
            self._behind = self._index_of_prompt()
        for end in range(self._n_seen + 1, len(tokens) + 1):
            if self._source is not None:
                self._compare(tokens[end - 1])
            if end < _N_GRAM:
                continue
            n_gram = tuple(tokens[end - _N_GRAM : end])
            if self._source is None:
                self._source = self._behind.get(n_gram)
                self._n_match = self._agreement(end)
            self._behind[n_gram] = end
        self._n_seen = len(tokens)

    def _agreement(self, end: int) -> int:
        """How many tokens before ``end`` are those before the source; not counted further than it matters."""
        if self._source is None:
            return 0
        n_tokens, n_most = _N_GRAM, min(_MIN_MATCH, self._source)
        while n_tokens < n_most and self._tokens[end - n_tokens - 1] == self._tokens[self._source - n_tokens - 1]:
            n_tokens += 1
        return n_tokens

    def _index_of_prompt(self) -> dict[tuple[int, ...], int]:
        start = max(0, self._n_seen - _MAX_INDEXED)
        prompt = self._tokens[start : self._n_seen]
        n_grams = zip(*(prompt[offset:] for offset in range(_N_GRAM)), strict=False)
        return dict(zip(n_grams, range(start + _N_GRAM, self._n_seen + 1), strict=False))

    def _compare(self, token: int) -> None:
        """Whether a token is the one that was guessed, by the source."""
        assert self._source is not None
        is_right = self._tokens[self._source] == token
        if self._n_match >= _MIN_MATCH:
            self._acceptance.observe(is_right=is_right)
        if is_right:
            self._source += 1
            self._n_match += 1
        else:
            self._source = None
