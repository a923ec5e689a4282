"""Reads of the response cache, on a thread of their own: a slow disk stops no stream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import struct
import threading
import time
from collections.abc import Iterable
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


class _Question:
    """Asked on ``loop``, where the answer is awaited."""

    __slots__ = ("answer", "key", "loop")

    def __init__(self, key: bytes, loop: asyncio.AbstractEventLoop) -> None:
        self.key = key
        self.loop = loop
        self.answer: asyncio.Future[Stored | None] = loop.create_future()


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
        self._questions: queue.SimpleQueue[_Question | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="response-cache-reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def n_failed(self) -> int:
        """Reads that failed, or took too long."""
        return self._n_failed + self._n_late

    async def get(self, key: bytes) -> Stored | None:
        """What is stored under a key; None also if the file can't be read, or not in time."""
        if self._is_closed:
            return None
        question = _Question(key, asyncio.get_running_loop())
        self._questions.put(question)
        timer = question.loop.call_later(_TIMEOUT_S, self._give_up, question)
        try:
            return await question.answer
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Ends the thread, behind what it was asked for; nothing is found any more."""
        self._is_closed = True
        self._questions.put(None)
        await asyncio.to_thread(self._thread.join)

    def _give_up(self, question: _Question) -> None:
        if not question.answer.done():
            self._n_late += 1
            question.answer.set_result(None)

    def _run(self) -> None:
        while (question := self._questions.get()) is not None:
            # All that have come meanwhile are answered together: to wake the event loop costs more than to read.
            questions: list[_Question | None] = [question]
            with contextlib.suppress(queue.Empty):
                while questions[-1] is not None:
                    questions.append(self._questions.get_nowait())
            asked = [question for question in questions if question is not None]
            found = [(question, self._get(question.key)) for question in asked]
            with contextlib.suppress(RuntimeError):  # the event loop is gone, and who asked with it
                question.loop.call_soon_threadsafe(_tell, found)
            if questions[-1] is None:
                break
        self._disconnect()

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


def _tell(found: Iterable[tuple[_Question, Stored | None]]) -> None:
    for question, stored in found:
        if not question.answer.done():
            question.answer.set_result(stored)


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
