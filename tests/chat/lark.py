"""Looks whether a text follows a grammar, with a tokenizer whose tokens are bytes and some control tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from appliance.chat.dialect import Dialect
from appliance.engine.control_tokens import special_token
from appliance.engine.grammar import LIMITS

_EOS = 256


class _Bytes:
    eos_token_id = _EOS
    bos_token_id = None

    def __init__(self, control_tokens: Sequence[str]) -> None:
        names = [special_token(text).encode() for text in control_tokens]
        self.tokens = [*(bytes([value]) for value in range(256)), b"<eos>", *names]
        self.special_token_ids = list(range(256, len(self.tokens)))

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


class Grammar:
    """One that must compile."""

    def __init__(self, text: str, dialect: Dialect) -> None:
        self._control_tokens = [*dialect.control_tokens, *dialect.free_tokens]
        self._tokenizer = LLTokenizer(TokenizerWrapper(_Bytes(self._control_tokens)))
        self._text = text
        problem = LLMatcher.validate_grammar(text, self._tokenizer, limits=LIMITS)
        assert problem == "", f"{problem}\n{text}"

    def allowed(self, text: str) -> str:
        """How much of the text may be written; all of it, if the text may end there as well."""
        matcher = LLMatcher(self._tokenizer, self._text, limits=LIMITS)
        tokens = self._tokens(text)
        n = matcher.try_consume_tokens(tokens)
        if n == len(tokens) and not matcher.is_accepting():
            return text + "…"
        names = [t.encode() for t in self._control_tokens]
        return b"".join(bytes([t]) if t < _EOS else names[t - _EOS - 1] for t in tokens[:n]).decode(errors="ignore")

    def accepts(self, text: str) -> bool:
        return self.allowed(text) == text

    def _tokens(self, text: str) -> list[int]:
        if not self._control_tokens:
            return list(text.encode())
        apart = "|".join(map(re.escape, sorted(self._control_tokens, key=len, reverse=True)))
        tokens: list[int] = []
        for part in re.split(f"({apart})", text):
            if part in self._control_tokens:
                tokens.append(_EOS + 1 + self._control_tokens.index(part))
            else:
                tokens += part.encode()
        return tokens
