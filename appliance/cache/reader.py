"""Reads of the response cache, on a thread of their own: a slow disk stops no stream."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from appliance import logs
from appliance.cache.answer import Answer, BadAnswer
from appliance.cache.entries import GET, checksum, delete, transaction
from appliance.cache.schema import FileId, is_damage, open_for_reading
from appliance.cache.writer import Writer

log = logging.getLogger(__name__)

# In a WAL nobody waits for a writer; what else may hold the file must not hold up a request.
_BUSY_TIMEOUT_S = 0.05
# How long a request waits in all, for those before it and for the file to be opened too.
_TIMEOUT_S = 2.0
# How long a file isn't read after a read of it failed: else each request would wait behind others for the same failure.
_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Stored:
    """``entry`` is its number, ``created_s`` the wall clock's."""

    entry: int
    created_s: float
    answer: Answer


class Reader:
    """Owns the connection that reads."""

    def __init__(self, writer: Writer) -> None:
        self._n_failed = 0  # counted by the thread
        self._n_late = 0  # counted by the event loop
        self._writer = writer
        self._connection: sqlite3.Connection | None = None
        self._file: FileId | None = None
        self._retry_at = 0.0
        self._is_closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="response-cache-reader")

    @property
    def n_failed(self) -> int:
        """Reads that failed, or took too long."""
        return self._n_failed + self._n_late

    async def get(self, key: bytes) -> Stored | None:
        """What is stored under a key; None also if the file can't be read, or not in time."""
        if self._is_closed:
            return None
        reading = asyncio.get_running_loop().run_in_executor(self._thread, self._get, key)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await reading
        except TimeoutError:
            self._n_late += 1
            return None

    async def close(self) -> None:
        """Ends the thread, behind what it was asked for; nothing is found any more."""
        self._is_closed = True
        self._thread.submit(self._disconnect)
        await asyncio.to_thread(self._thread.shutdown)

    def _get(self, key: bytes) -> Stored | None:
        self._writer.has_started.wait(_TIMEOUT_S)
        file = self._writer.file
        if file is None or (file == self._file and time.monotonic() < self._retry_at):
            return None
        try:
            row = self._connected(file).execute(GET, (key,)).fetchone()
        except Exception as error:  # a damaged file has more ways to fail than sqlite3.Error
            self._fail(error, file)
            return None
        self._retry_at = 0.0
        if row is None:
            return None
        try:
            return _stored(key, row)
        except BadAnswer as error:
            self._n_failed += 1
            log.warning(logs.event("response_cache_answer_damaged", reason=error))
            self._writer.run(lambda connection: _delete(connection, key))
            return None

    def _connected(self, file: FileId) -> sqlite3.Connection:
        if self._connection is None or self._file != file:
            self._disconnect()
            self._file = file
            self._connection = open_for_reading(self._writer.path, _BUSY_TIMEOUT_S)
        return self._connection

    def _fail(self, error: Exception, file: FileId) -> None:
        self._n_failed += 1
        self._retry_at = time.monotonic() + _PAUSE_S
        self._disconnect()
        log.warning(logs.event("response_cache_not_read", reason=error, pause_s=_PAUSE_S))
        if is_damage(error):
            self._writer.report_damage(file)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def _stored(key: bytes, row: tuple[int, float, int, bytes]) -> Stored:
    """Raises BadAnswer."""
    entry, created_s, expected, body = row
    try:
        if checksum(key, created_s, body) != expected:
            raise BadAnswer("its checksum is wrong")
        return Stored(entry, created_s, Answer.decode(body))
    except (TypeError, struct.error) as error:  # a damaged row may hold values of other types
        raise BadAnswer(str(error)) from None


def _delete(connection: sqlite3.Connection, key: bytes) -> None:
    with transaction(connection):
        delete(connection, "WHERE key = ?", (key,), at_most=1)
