"""What an engine knows of its computed prefixes on disk. It asks, and is woken when there is an answer."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from appliance import logs
from appliance.engine.kv_file import Prefix
from appliance.engine.kv_folder import KVFolder, Stored
from appliance.engine.kv_messages import WarmTierCounts
from appliance.engine.kv_worker import (
    Allocate,
    Allocated,
    Dropped,
    Failed,
    Fetched,
    Found,
    KVWorker,
    Refuse,
    Write,
    Written,
)
from appliance.engine.prefix import PrefixTree

log = logging.getLogger(__name__)

# After a write that failed, nothing is written for so long.
OFF_S = 60.0


class KVKeeper:
    """All of it is called on the engine's thread."""

    def __init__(
        self, folder: KVFolder, wake: Callable[[], None], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        """``wake`` is called on another thread when there is something for :meth:`collect`."""
        # Whether the beginning of a file is of use, too: the memory of some models can only be restored as a whole.
        self.can_cut = True
        self.counts = WarmTierCounts()
        self._worker = KVWorker(folder, wake)
        self._folder = folder
        self._now = now
        self._tree = PrefixTree()
        self._stored: dict[int, Stored] = {}
        self._numbers: dict[Path, int] = {}  # which stand for slots in the tree
        self._next_number = 0
        self._under_way: set[Path] = set()
        self._read_s_per_byte = 0.0
        self._buffer: memoryview | None = None
        self._is_saving = False
        self._off_until = 0.0
        self._n_saved = self._n_unsaved = self._n_restored = self._n_tokens_restored = 0
        self._rejected: Counter[str] = Counter()

    @property
    def is_saving(self) -> bool:
        """Whether the thread is at work on something to be saved; there is one at a time."""
        return self._is_saving

    @property
    def may_save(self) -> bool:
        return not self._is_saving and self._now() >= self._off_until

    def set_engine_busy(self, is_busy: bool) -> None:
        """Whether somebody waits for what the engine computes: then the thread leaves it the processor."""
        self._worker.is_engine_busy = is_busy

    def wait_for_scan(self, timeout_s: float) -> None:
        """Waits until it is known what there is, or so long."""
        self._worker.wait_for_scan(timeout_s)

    def wait(self, timeout_s: float) -> None:
        """Waits until there is something to collect, or so long."""
        self._worker.wait(timeout_s)

    def find(self, adapter: str, scope: str, tokens: list[int]) -> tuple[int, Stored] | None:
        """How many of the first tokens there are, and a file that has them."""
        match = self._tree.match if self.can_cut else self._tree.match_end
        n_tokens, number = match(_place(adapter, scope), tokens, exact=False)
        return None if number is None else (n_tokens, self._stored[number])

    def read_s(self, stored: Stored) -> float:
        """How long it takes to read a file, as far as can be said from the latest one."""
        return self._read_s_per_byte * stored.header.n_bytes

    def pass_over(self) -> None:
        """Reading takes too long: it is tried again after some more of these."""
        self._read_s_per_byte *= 0.9

    def fetch(self, stored: Stored) -> None:
        """Has a file read; :meth:`collect` gives it, once for all who have asked."""
        if stored.path not in self._under_way:
            self._under_way.add(stored.path)
            self._worker.read(stored)

    def collect(self) -> list[Fetched]:
        """What has been read since the last call."""
        fetched: list[Fetched] = []
        for result in self._worker.results():
            match result:
                case Fetched(stored, payload, took_s):
                    self._under_way.discard(stored.path)
                    if payload is not None:
                        self._read_s_per_byte = took_s / len(payload)
                    fetched.append(result)
                case Found(stored):
                    self._add(stored)
                case Dropped(path, reason):
                    self._drop(path)
                    self._rejected[reason] += 1
                case Allocated(buffer):
                    self._is_saving = False
                    self._buffer = buffer
                case Written(stored, superseded):
                    self._is_saving = False
                    self._n_saved += 1
                    self._add(stored)
                    for old in superseded:
                        self._drop(old.path)
                case Failed(error):
                    self._is_saving = False
                    self._n_unsaved += 1
                    self._off_until = self._now() + OFF_S
                    why = error.strerror or error
                    log.warning(logs.event("kv_not_saved", folder=self._folder.root, reason=why, paused_s=OFF_S))
            self._count()
        return fetched

    def buffer(self, n_bytes: int) -> memoryview | None:
        """Memory for a payload. None: ask again when :attr:`may_save` is true again."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None and len(buffer) >= n_bytes:
            return buffer[:n_bytes]
        self._is_saving = True
        self._worker.do(Allocate(n_bytes))
        return None

    def drop_buffer(self) -> None:
        """What was to be copied there is gone."""
        self._buffer = None

    def may_hold(self, n_bytes: int) -> bool:
        """Whether there could be room for so large a payload."""
        return n_bytes <= self._folder.max_bytes

    def save(self, adapter: str, scope: str, tokens: list[int], payload: memoryview) -> None:
        """Has a file written; those that are of no more use then are removed."""
        prefix = Prefix.of(adapter, scope, tokens)
        shorter = (stored for stored in self._stored.values() if _is_part_of(stored.header.prefix, prefix))
        superseded = tuple(shorter) if self.can_cut else ()
        self._is_saving = True
        self._worker.do(Write(prefix, payload, superseded))

    def restored(self, n_tokens: int) -> None:
        """So many tokens of a file are in the KV cache now."""
        self._n_restored += 1
        self._n_tokens_restored += n_tokens
        self._count()

    def refuse(self, stored: Stored) -> None:
        """The backend would not have what was read."""
        self._drop(stored.path)
        self._rejected["refused"] += 1
        self._worker.do(Refuse(stored))
        self._count()

    def close(self, timeout_s: float) -> bool:
        """Ends the thread when all that there is to write is written; false if that takes longer."""
        return self._worker.stop(timeout_s)

    def _add(self, stored: Stored) -> None:
        number = self._numbers[stored.path] = self._next_number
        self._next_number += 1
        self._stored[number] = stored
        prefix = stored.header.prefix
        place, tokens = _place(prefix.adapter, prefix.scope), prefix.token_list()
        n_shared, other = self._tree.match(place, tokens, exact=False)
        if other is None:
            self._tree.open(number, place)
        else:  # else each look would compare what many files begin with, once for each
            self._tree.fork(number, other, n_shared)
        if n_shared < len(tokens):
            self._tree.append(number, tokens[n_shared:], exact=True)

    def _drop(self, path: Path) -> None:
        number = self._numbers.pop(path, None)
        if number is not None:
            self._tree.release(number)
            del self._stored[number]

    def _count(self) -> None:
        self.counts = WarmTierCounts(
            n_saved=self._n_saved,
            n_unsaved=self._n_unsaved,
            n_restored=self._n_restored,
            n_tokens_restored=self._n_tokens_restored,
            rejected=dict(self._rejected),
            used_bytes=self._folder.used_bytes,
        )


def _place(adapter: str, scope: str) -> str:
    return f"{adapter}\0{scope}"


def _is_part_of(prefix: Prefix, longer: Prefix) -> bool:
    return (
        (prefix.adapter, prefix.scope) == (longer.adapter, longer.scope)
        and len(prefix.tokens) < len(longer.tokens)
        and longer.tokens.startswith(prefix.tokens)
    )
