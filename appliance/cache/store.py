"""The response cache as the gateway uses it: found, kept, and administered, from an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.cache import administration
from appliance.cache.administration import Group, Selection
from appliance.cache.answer import Answer
from appliance.cache.pending import Put
from appliance.cache.reader import Reader
from appliance.cache.writer import CLOCK_SLACK_S, Writer

# How long a stop waits for what is to be written.
_STOP_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Found:
    answer: Answer
    age_s: float


class ResponseCache:
    """Answers by their keys. Reading and keeping never fail: what can't be read isn't there."""

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        ttl_s: float | None = None,
        retry_s: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``ttl_s``: how old an answer may become. ``retry_s``: after how long writing is tried again that failed.
        ``clock``: the wall clock.
        """
        self._ttl_s = ttl_s
        self._clock = clock
        self._writer = Writer(path, max_bytes=max_bytes, ttl_s=ttl_s, retry_s=retry_s, clock=clock)
        self._reader = Reader(self._writer)

    @property
    def path(self) -> Path:
        return self._writer.path

    @property
    def max_bytes(self) -> int:
        return self._writer.max_bytes

    @property
    def ttl_s(self) -> float | None:
        """How old an answer may become."""
        return self._ttl_s

    @property
    def used_bytes(self) -> int:
        """Of the file, without what is free in it."""
        return self._writer.used_bytes

    @property
    def problem(self) -> str | None:
        """Why nothing can be kept at the moment; None: it can."""
        return self._writer.problem

    @property
    def n_evicted(self) -> int:
        """Answers that made room for others since the start."""
        return self._writer.n_evicted

    @property
    def n_unkept(self) -> int:
        """Answers that could not be kept since the start."""
        return self._writer.pending.n_unkept

    @property
    def n_unread(self) -> int:
        """Reads that failed since the start."""
        return self._reader.n_failed

    def start(self) -> None:
        """Opens the file, on its own thread."""
        self._writer.start()
        self._reader.start()

    async def get(self, key: bytes, *, max_age_s: float | None = None) -> Found | None:
        """The answer of this key, unless it is older than allowed or its age can't be told."""
        if (put := self._writer.pending.get(key)) is not None:  # not written yet
            return self._fresh(put.answer, put.created_s, max_age_s)
        stored = await self._reader.get(key)
        if stored is None:
            return None
        found = self._fresh(stored.answer, stored.created_s, max_age_s)
        if found is not None:
            self._writer.pending.note_use(stored.entry)
        return found

    def put(self, key: bytes, answer: Answer, *, model: str, version: str, owner: str) -> None:
        """Keeps an answer, in place of an older one."""
        self._writer.put(Put(key, model, version, owner, self._clock(), answer))

    async def groups(self) -> list[Group]:
        """All answers by model, version and API key. Raises sqlite3.Error."""
        return await asyncio.wrap_future(self._writer.run(administration.groups))

    async def purge(self, selection: Selection) -> int:
        """Removes answers; how many there were. Raises sqlite3.Error."""
        return await asyncio.wrap_future(self._writer.run(lambda file: administration.purge(file, selection)))

    async def vacuum(self) -> tuple[int, int]:
        """Gives free room back to the disk; the file's bytes before and after. Raises sqlite3.Error."""
        return await asyncio.wrap_future(self._writer.run(administration.vacuum))

    async def stop(self) -> None:
        """Writes what waits to be written. From now on nothing is found."""
        await self._reader.close()
        self._writer.stop(_STOP_TIMEOUT_S)
        await asyncio.to_thread(self._writer.join, _STOP_TIMEOUT_S + 1.0)

    def _fresh(self, answer: Answer, created_s: float, max_age_s: float | None) -> Found | None:
        age_s = self._clock() - created_s
        if age_s < -CLOCK_SLACK_S:  # the clock was set back
            return None
        age_s = max(0.0, age_s)
        limits = [limit for limit in (self._ttl_s, max_age_s) if limit is not None]
        return Found(answer, age_s) if all(age_s <= limit for limit in limits) else None
