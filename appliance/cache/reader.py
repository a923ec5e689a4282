"""Reads of the response cache, on a thread of their own: a slow disk stops no stream."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from appliance import logs
from appliance.cache.answer import Answer, BadAnswer
from appliance.cache.schema import inode_of, is_damage, open_for_reading
from appliance.cache.writer import Writer, checksum, delete

log = logging.getLogger(__name__)

# In a WAL nobody waits for a writer; what else may hold the file must not hold up a request.
_BUSY_TIMEOUT_S = 0.05
# How long the first requests wait for the file to be opened.
_OPEN_TIMEOUT_S = 2.0

_GET = "SELECT id, created_s, checksum, body FROM entries JOIN answers USING (id) WHERE key = ?"


@dataclass(frozen=True, slots=True)
class Stored:
    """``entry`` is its number, ``created_s`` the wall clock's."""

    entry: int
    created_s: float
    answer: Answer


class Reader:
    """Owns the connection that reads."""

    def __init__(self, writer: Writer) -> None:
        self.n_failed = 0
        self._writer = writer
        self._connection: sqlite3.Connection | None = None
        self._generation = -1
        self._inode: int | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="response-cache-reader")

    async def get(self, key: bytes) -> Stored | None:
        """What is stored under a key; None also if the file can't be read."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._get, key)

    def close(self) -> None:
        """Ends the thread, behind what it was asked for."""
        self._thread.submit(self._disconnect)
        self._thread.shutdown()

    def _get(self, key: bytes) -> Stored | None:
        self._writer.is_open.wait(_OPEN_TIMEOUT_S)
        try:
            row = self._connected().execute(_GET, (key,)).fetchone()
        except sqlite3.Error as error:
            self.n_failed += 1
            self._disconnect()
            if is_damage(error):
                self._writer.report_damage(self._inode)
            return None
        if row is None:
            return None
        entry, created_s, expected, body = row
        try:
            if checksum(key, body) != expected:
                raise BadAnswer("its checksum is wrong")
            return Stored(entry, created_s, Answer.decode(body))
        except (BadAnswer, TypeError) as error:  # a damaged row may hold values of other types
            self.n_failed += 1
            log.warning(logs.event("response_cache_answer_damaged", reason=error))
            self._writer.run(lambda connection: delete(connection, "key = ?", (key,)))
            return None

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None or self._generation != self._writer.generation:
            self._disconnect()
            self._generation, self._inode = self._writer.generation, inode_of(self._writer.path)
            self._connection = open_for_reading(self._writer.path, _BUSY_TIMEOUT_S)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
