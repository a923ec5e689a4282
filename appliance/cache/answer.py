"""A complete answer, as it is kept: the engine's events in their order, so that a hit streams like the original."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import msgspec

from appliance.engine.messages import Accepted, Embedded, Event, Finished, Piece, SequenceFinished, Submit

# Answers are small and read often: what a higher level gains in bytes it loses in time.
_COMPRESSION = 1


class BadAnswer(Exception):
    """Stored bytes that are no answer."""


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """``events`` are the pieces and ends of all sequences, without the request's id. ``compute_s`` is how long the
    engine took for them, from the first step that computed for the request. That of a text that was embedded has its
    vector only.
    """

    n_prompt: int
    n_completion: int
    compute_s: float
    events: tuple[Piece | SequenceFinished | Embedded, ...]

    @property
    def n_tokens(self) -> int:
        """Of its prompt and its text."""
        return self.n_prompt + self.n_completion

    @property
    def stopped_texts(self) -> list[str]:
        """Of the sequences that ended with ``stop``."""
        stopped = [
            event.index
            for event in self.events
            if isinstance(event, SequenceFinished) and event.finish_reason == "stop"
        ]
        texts: dict[int, list[str]] = {index: [] for index in stopped}
        for event in self.events:
            if isinstance(event, Piece) and event.index in texts:
                texts[event.index].append(event.text)
        return ["".join(pieces) for pieces in texts.values()]

    def replay(self, request_id: str) -> list[Event]:
        """The events of a request that is answered by this. Nothing was computed, so its whole prompt was cached."""
        finished = Finished(request_id, self.n_prompt, n_cached=self.n_prompt, n_completion=self.n_completion)
        return [Accepted(request_id, self.n_prompt), *self.events, finished]

    def encode(self) -> bytes:
        return zlib.compress(_encoder.encode(self), _COMPRESSION)

    @classmethod
    def decode(cls, data: bytes) -> Answer:
        """Raises BadAnswer."""
        try:
            return _decoder.decode(zlib.decompress(data))
        except (zlib.error, msgspec.DecodeError) as error:
            raise BadAnswer(str(error)) from None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Answer)


def complete_answer(submit: Submit, batches: Iterable[Sequence[Event]]) -> Answer | None:
    """The answer that a request's events make up; None unless each sequence came to an end that is the answer's own.

    A sequence that filled the context ends with ``length``, too, and would go on in a larger one: that is no answer
    to keep.
    """
    kept: list[Piece | SequenceFinished] = []
    n_ended = 0
    for events in batches:
        for event in events:
            match event:
                case Accepted():  # also when the request runs again from its beginning
                    kept, n_ended = [], 0
                case Piece():
                    kept.append(msgspec.structs.replace(event, request_id=""))
                case SequenceFinished(_, _, reason, n_tokens):
                    if reason == "length" and n_tokens != submit.max_tokens:
                        return None
                    n_ended += 1
                    kept.append(msgspec.structs.replace(event, request_id=""))
                case Finished():
                    if n_ended != submit.n:  # it was aborted
                        return None
                    return Answer(event.n_prompt, event.n_completion, event.prefill_s + event.decode_s, tuple(kept))
    return None
