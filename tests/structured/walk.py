"""Random texts of a grammar: as a model with one token for each byte would write them that likes to come to an end."""

from __future__ import annotations

import random

from llguidance import LLMatcher

from appliance.engine.grammar import LIMITS
from tests.fake_backend import FakeBackend

_CLOSING = b'"}],'

TOKENIZER = FakeBackend().grammar_vocabulary()


def compiled(grammar: str) -> LLMatcher:
    matcher = LLMatcher(TOKENIZER, grammar, log_level=0, limits=LIMITS)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def accepts(grammar: str, text: str) -> bool:
    """Whether it is a whole text of the grammar."""
    matcher, data = compiled(grammar), text.encode()
    return matcher.try_consume_tokens(list(data)) == len(data) and matcher.is_accepting()


def walk(grammar: str, seed: int, n_bytes: int = 400) -> str | None:
    """A whole text; None if it came to no end in so many bytes."""
    matcher, rng, text = compiled(grammar), random.Random(seed), bytearray()
    while len(text) < n_bytes:
        if matcher.is_stopped():
            break
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        assert not matcher.is_error(), matcher.get_error()
        allowed = [token for token in range(1, 256) if mask >> token & 1]
        if mask & 1 and (not allowed or rng.random() < 0.5):
            break
        closing = [token for token in allowed if token in _CLOSING]
        ascii_only = [token for token in allowed if token < 128]
        if closing and rng.random() < 0.3 + 0.6 * len(text) / n_bytes:
            allowed = closing
        elif ascii_only and rng.random() < 0.9:
            allowed = ascii_only
        token = rng.choice(allowed)
        matcher.consume_token(token)
        text.append(token)
    else:
        return None
    assert matcher.is_accepting(), f"it can't go on behind {bytes(text)!r}"
    return text.decode()
