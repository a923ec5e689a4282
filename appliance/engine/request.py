"""A submitted request while it is open: its sequences that still run, their texts, and what is counted for its end."""

from __future__ import annotations

from dataclasses import dataclass, field

from appliance.engine.backend import Backend, Sampled
from appliance.engine.lane import Lane
from appliance.engine.messages import Submit, TokenLogprob
from appliance.engine.sequence import Sequence
from appliance.engine.text import TextStream


@dataclass(slots=True, eq=False)
class OpenRequest:
    """``n_ctx``: most tokens of one of its sequences."""

    submit: Submit
    backend: Backend
    n_prompt: int
    n_ctx: int
    submitted_at: float
    # What stands before each text.
    echo: str = ""
    open: dict[int, Sequence] = field(default_factory=dict)
    text: dict[int, TextStream] = field(default_factory=dict)
    n_cached: int = 0
    n_completion: int = 0
    # Times of the engine's clock; None until it has come to that.
    started_at: float | None = None
    first_token_at: float | None = None
    # None until one computes with its adapter.
    lane: Lane | None = None

    def go_on(self, sequence: Sequence, sampled: Sampled) -> tuple[str, tuple[TokenLogprob, ...], str | None]:
        """What one of its sequences has come to with what was ``sampled``: the text that is certain, its tokens'
        log-probabilities, and why it ends here if it does. Tokens behind that end are left out.
        """
        assert self.lane is not None, "nothing is sampled for a request that waits"
        released, logprobs, reason = self._push(sequence, sampled.token, sampled.logprob)
        for token, logprob in sampled.more:
            if reason is not None:
                return released, logprobs, reason
            self.lane.scheduler.follow(sequence, token)
            more, more_logprobs, reason = self._push(sequence, token, logprob)
            released, logprobs = released + more, logprobs + more_logprobs
        if sampled.is_complete and reason != "stop":  # also at the last token that was allowed
            rest, rest_logprobs = self.text[sequence.index].finish()
            return released + rest, logprobs + rest_logprobs, "stop"
        return released, logprobs, reason

    def _push(
        self, sequence: Sequence, token: int, logprob: TokenLogprob | None
    ) -> tuple[str, tuple[TokenLogprob, ...], str | None]:
        text = self.text[sequence.index]
        if self.backend.is_eog(token) and not self.submit.ignore_eos:
            return *text.finish(), "stop"
        released, logprobs = text.push(self._piece(token), logprob)
        if text.is_stopped:
            return released, logprobs, "stop"
        if self._is_full(sequence):
            rest, rest_logprobs = text.finish()
            return released + rest, logprobs + rest_logprobs, "length"
        return released, logprobs, None

    def _piece(self, token: int) -> bytes:
        piece = self.backend.piece(token)
        if piece or not self.submit.shown_tokens:
            return piece
        name = self.backend.token_name(token)
        return name if name.decode("utf-8", "replace") in self.submit.shown_tokens else b""

    def _is_full(self, sequence: Sequence) -> bool:
        max_tokens = self.submit.max_tokens
        if max_tokens is not None and sequence.n_completion >= max_tokens:
            return True
        return len(sequence.tokens) >= self.n_ctx
