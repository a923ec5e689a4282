"""From a request's texts to tokens, and back."""

from __future__ import annotations

from collections.abc import Iterable

from appliance.engine.backend import Backend
from appliance.engine.messages import PromptPart, Submit
from appliance.errors import ContextLengthExceeded, InvalidRequest


class Prompts:
    def __init__(self, backend: Backend, *, n_ctx: int, longest_token_bytes: int) -> None:
        """``n_ctx``: most tokens of a prompt and its answer. ``longest_token_bytes`` as in :class:`EngineConfig`."""
        self._backend = backend
        self._n_ctx = n_ctx
        self._longest_token_bytes = longest_token_bytes

    def tokens(self, message: Submit) -> list[int]:
        """A request's prompt. Raises InvalidRequest, ContextLengthExceeded."""
        tokens = list(message.tokens) if message.tokens else self.tokenize(message.parts)
        if not tokens:
            raise InvalidRequest("the prompt is empty", param="prompt")
        self.check(tokens, "prompt")
        if len(tokens) >= self._n_ctx:
            raise ContextLengthExceeded(
                f"the prompt has {len(tokens)} tokens; this model's context holds {self._n_ctx}, and at least "
                "one must be left for the answer. Shorten the prompt, or raise n_ctx",
                param="prompt",
            )
        return tokens

    def text(self, message: Submit) -> str:
        """A request's prompt as it is echoed."""
        return "".join(part.text for part in message.parts) or self.text_of(message.tokens)

    def tokenize(self, parts: tuple[PromptPart, ...]) -> list[int]:
        """Raises ContextLengthExceeded if it can't fit, before its tokens are found, which would stop all others."""
        n_bytes = sum(len(part.text.encode()) for part in parts)
        n_least = n_bytes // self._longest_token_bytes
        if n_least > self._n_ctx:
            raise ContextLengthExceeded(
                f"the prompt has {n_bytes} bytes, which are more than {n_least} tokens; this model's context holds "
                f"{self._n_ctx}. Shorten the prompt, or raise n_ctx",
                param="prompt",
            )
        return self._backend.tokenize(parts)

    def text_of(self, tokens: Iterable[int]) -> str:
        """The text of tokens, control tokens written out."""
        return b"".join(map(self._backend.token_name, tokens)).decode("utf-8", "replace")

    def check(self, tokens: Iterable[int], param: str) -> None:
        """Raises InvalidRequest if one isn't in the vocabulary."""
        n_vocab = self._backend.info.n_vocab
        for token in tokens:
            if not 0 <= token < n_vocab:
                raise InvalidRequest(f"token {token} is not in the vocabulary (0 to {n_vocab - 1})", param=param)
