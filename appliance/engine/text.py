"""From the bytes of sampled tokens to text: whole characters, and nothing that may belong to a stop string."""

from __future__ import annotations

import codecs

from appliance.engine.messages import TokenLogprob


class TextStream:
    """The text of one sequence.

    Bytes are held back until they are a character, and text while it could still become a stop string: the
    longest such suffix, no more. A stop string itself never comes out. Log-probabilities come out with the text
    of their token; those of tokens that lie wholly behind a stop string's beginning don't.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self.is_stopped = False
        self._stop = tuple(text for text in stop if text)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._n_released = 0
        # (where the token's text begins, where it ends, the record), in characters from the start.
        self._logprobs: list[tuple[int, int, TokenLogprob]] = []

    def push(self, piece: bytes, logprob: TokenLogprob | None = None) -> tuple[str, tuple[TokenLogprob, ...]]:
        """Takes a token's bytes; returns the text that is certain now and its log-probabilities."""
        begin = self._n_released + len(self._held)
        self._held += self._utf8.decode(piece)
        if logprob is not None:
            is_inside_character = bool(self._utf8.getstate()[0])
            end = self._n_released + len(self._held) + is_inside_character
            self._logprobs.append((begin, end, logprob))
        if not self._stop:
            return self._release(len(self._held))
        found = [at for at in (self._held.find(text) for text in self._stop) if at >= 0]
        if found:
            self.is_stopped = True
            return self._release(min(found))
        return self._release(len(self._held) - self._n_ambiguous())

    def finish(self) -> tuple[str, tuple[TokenLogprob, ...]]:
        """The rest, when no token follows."""
        if self.is_stopped:
            return "", ()
        self._held += self._utf8.decode(b"", True)
        text, logprobs = self._release(len(self._held))
        rest = tuple(record for _, _, record in self._logprobs)
        self._logprobs = []
        return text, logprobs + rest

    def _n_ambiguous(self) -> int:
        """The length of the longest end of the held text that a stop string begins with."""
        longest = max(len(text) for text in self._stop) - 1
        for n_chars in range(min(longest, len(self._held)), 0, -1):
            if any(text.startswith(self._held[-n_chars:]) for text in self._stop):
                return n_chars
        return 0

    def _release(self, n_chars: int) -> tuple[str, tuple[TokenLogprob, ...]]:
        text, self._held = self._held[:n_chars], self._held[n_chars:]
        self._n_released += len(text)
        if not self._logprobs:
            return text, ()
        n_out = 0
        for begin, end, _ in self._logprobs:
            # Behind a stop string's beginning nothing follows: a token that reaches into it still counts.
            if end > self._n_released and not (self.is_stopped and begin < self._n_released):
                break
            n_out += 1
        out = tuple(record for _, _, record in self._logprobs[:n_out])
        del self._logprobs[:n_out]
        return text, out
