"""Answers that wait to be written, and which stored ones were used: added by the event loop, taken by the writer."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from appliance.cache.answer import Answer
from appliance.cache.entries import Entry
from appliance.engine.messages import Piece

# What an answer takes in memory, about: itself, each token's piece, and each log-probability.
_ANSWER_BYTES = 1000
_TOKEN_BYTES = 200
_LOGPROB_BYTES = 150


@dataclass(frozen=True, slots=True)
class Put:
    """An answer to be kept. ``owner`` is the name of the API key that asked, ``created_s`` the wall clock's."""

    key: bytes
    model: str
    version: str
    owner: str
    created_s: float
    answer: Answer

    def entry(self) -> Entry:
        """As it is written."""
        about = (self.key, self.model, self.version, self.owner, self.created_s)
        return Entry(*about, self.answer.n_tokens, self.answer.encode())


class Pending:
    """May be called from every thread."""

    def __init__(self, max_bytes: int) -> None:
        # Answers that were not kept: there was no room here, or they could not be written.
        self.n_unkept = 0
        self._max_bytes = max_bytes
        self._bytes = 0
        self._puts: dict[bytes, Put] = {}
        self._used: set[int] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._puts)

    def get(self, key: bytes) -> Put | None:
        return self._puts.get(key)

    def add(self, put: Put) -> None:
        """In place of an older answer of its key; not if there is too much already."""
        with self._lock:
            if self._bytes >= self._max_bytes:
                self.n_unkept += 1
                return
            self._remove(put.key)
            self._puts[put.key] = put
            self._bytes += _bytes_of(put.answer)

    def note_use(self, entry: int) -> None:
        """Of a stored answer, by its number in the file."""
        with self._lock:
            self._used.add(entry)

    def puts(self) -> list[Put]:
        with self._lock:
            return list(self._puts.values())

    def used(self) -> list[int]:
        with self._lock:
            return list(self._used)

    def forget(self, puts: Iterable[Put], used: Iterable[int]) -> None:
        """They are written; another answer of the same key may have come meanwhile."""
        with self._lock:
            for put in puts:
                if self._puts.get(put.key) is put:
                    self._remove(put.key)
            self._used.difference_update(used)

    def give_up(self) -> None:
        """Keeps nothing of what waits."""
        with self._lock:
            self.n_unkept += len(self._puts)
            self._puts.clear()
            self._used.clear()
            self._bytes = 0

    def count_unkept(self, n_puts: int) -> None:
        with self._lock:
            self.n_unkept += n_puts

    def _remove(self, key: bytes) -> None:
        if (put := self._puts.pop(key, None)) is not None:
            self._bytes -= _bytes_of(put.answer)


def _bytes_of(answer: Answer) -> int:
    n_bytes = _ANSWER_BYTES + _TOKEN_BYTES * answer.n_completion
    first = answer.events[0] if answer.events else None
    if isinstance(first, Piece) and first.logprobs:  # each token has as many; with echo the prompt's have them, too
        n_bytes += _LOGPROB_BYTES * (1 + len(first.logprobs[-1].top)) * answer.n_tokens
    return n_bytes
