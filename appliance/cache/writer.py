"""The one thread that writes the response cache: commits in batches, evicts, and gets over what files suffer.

Nothing here fails a request. While another process holds the file, what is to be written waits in memory, where reads
find it; on a full or read-only disk it is let go, and writing is tried again later; a damaged file is set aside.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from appliance import logs
from appliance.cache import entries
from appliance.cache.entries import Entry, transaction, used_bytes
from appliance.cache.pending import Pending, Put
from appliance.cache.schema import (
    FORMAT,
    DamagedFile,
    FileId,
    ForeignFile,
    file_at,
    is_busy,
    is_damage,
    make_file,
    open_for_writing,
    set_aside,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

# How often it is written down which answers were used; a crash forgets at most that.
TOUCH_INTERVAL_S = 5.0
# How long what has come waits for more: one commit for all, and not while the answer is being sent that is to be kept.
LINGER_S = 0.02
# How long a commit waits for another process, and the pause before it is tried again.
BUSY_TIMEOUT_S = 0.5
BUSY_PAUSE_S = 0.05
# How often entries are looked for that are past their time.
EXPIRY_INTERVAL_S = 600.0
# Memory for answers that wait to be written; what comes beyond is not kept.
MAX_PENDING_BYTES = 96 << 20
# An entry dated later than now by more than this was written before the clock was set back: its age isn't known.
CLOCK_SLACK_S = 60.0
# No single answer may push out more than this part of all others.
MAX_ANSWER_RATIO = 0.25
# Entries deleted in one transaction, all of which goes to the WAL first.
_MAX_DELETED = 1024

Job = tuple[Callable[[sqlite3.Connection], Any], "Future[Any]"]


class Writer:
    """Owns the connection that writes. All attributes without an underscore may be read by other threads."""

    def __init__(
        self, path: Path, *, max_bytes: int, ttl_s: float | None, retry_s: float, clock: Callable[[], float]
    ) -> None:
        """``retry_s``: after how long writing is tried again that failed."""
        self.path = path
        self.max_bytes = max_bytes
        self.pending = Pending(MAX_PENDING_BYTES)
        self.used_bytes = 0
        self.n_evicted = 0
        # Why nothing is written at the moment; None: it is.
        self.problem: str | None = None
        # The file whose tables were found to be sound: the one to read. None: there is none.
        self.file: FileId | None = None
        # Set once it is known whether there is one.
        self.has_started = threading.Event()
        self._ttl_s = ttl_s
        self._retry_s = retry_s
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        # The one that was opened last, sound or not.
        self._opened: FileId | None = None
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()  # None only wakes the thread
        self._retry_at = 0.0
        self._expire_at = 0.0
        self._stop_by: float | None = None
        self._thread = threading.Thread(target=self._run, name="response-cache-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, put: Put) -> None:
        """Keeps an answer; it is found from now on, and written soon."""
        self.pending.add(put)
        self._jobs.put(None)

    def run(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """``work`` done with the connection, behind all that was put before.

        The future raises what ``work`` does; sqlite3.Error if there is no file to work with, or it is held by another
        process.
        """
        future: Future[T] = Future()
        if self._stop_by is None:
            self._jobs.put((work, future))
        else:
            future.set_exception(_closed())
        return future

    def report_damage(self, file: FileId) -> None:
        """A reader has found this file to be damaged."""

        def complain(_: sqlite3.Connection) -> None:
            if file == self.file:
                raise DamagedFile("found by a reader")

        self.run(complain)

    def stop(self, timeout_s: float) -> None:
        """The thread writes what waits and ends, within ``timeout_s`` if it can; doesn't wait for that."""
        self._stop_by = time.monotonic() + timeout_s
        self._jobs.put(None)

    def join(self, timeout_s: float) -> None:
        """Waits for the thread's end, or until ``timeout_s`` have passed."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        self._commit()
        self.has_started.set()
        while True:
            jobs = self._wait()
            stop_by = self._stop_by
            is_done = self._commit()
            for job in jobs:
                self._do(job)
            if stop_by is not None and (is_done or time.monotonic() > stop_by):
                break
        self._close()
        for _, future in self._waiting():
            if future.set_running_or_notify_cancel():
                future.set_exception(_closed())

    def _wait(self) -> list[Job]:
        """The jobs that have come, all of them at once: so commits are as large as they come fast."""
        with contextlib.suppress(queue.Empty):
            first = self._jobs.get(timeout=TOUCH_INTERVAL_S)
            if first is None and self._stop_by is None:
                time.sleep(LINGER_S)
            return [*([first] if first else []), *self._waiting()]
        return []

    def _waiting(self) -> list[Job]:
        jobs = []
        with contextlib.suppress(queue.Empty):
            while True:
                if (job := self._jobs.get_nowait()) is not None:
                    jobs.append(job)
        return jobs

    def _do(self, job: Job) -> None:
        work, future = job
        if not future.set_running_or_notify_cancel():
            return
        try:
            # What was put before comes first, also if it could not be written a moment ago.
            if not self._commit():
                raise sqlite3.OperationalError("another process holds the response cache's file")
            if self._connection is None:
                raise sqlite3.OperationalError(self.problem or "the response cache's file is not open")
            result = work(self._connection)
            self.used_bytes = used_bytes(self._connection)
        except Exception as error:
            if is_damage(error):
                self._set_aside(error)
            future.set_exception(error)
        else:
            future.set_result(result)

    def _commit(self) -> bool:
        """Writes what waits, or gives it up; false if it still waits, because another process holds the file."""
        if time.monotonic() < self._retry_at and self._stop_by is None:
            self.pending.give_up()
            return True
        for is_last in (False, True):
            try:
                self._write()
                return True
            except Exception as error:  # also what a file gives that was damaged in a way that SQLite doesn't see
                if is_busy(error):
                    self._pause()
                    return False
                if is_last or not is_damage(error):
                    self._fail(error)
                    return True
                self._set_aside(error)
        raise AssertionError("unreachable")

    def _write(self) -> None:
        """Opens the file, if need be, and commits."""
        if self._connection is None or self.problem is not None or file_at(self.path) != self._opened:
            self._open()
        assert self._connection is not None
        puts, used = self.pending.puts(), self.pending.used()
        is_expiring = self._ttl_s is not None and time.monotonic() >= self._expire_at
        is_too_large = self.used_bytes > self.max_bytes
        if not (puts or used or is_expiring or is_too_large or self.problem):
            return
        with transaction(self._connection):
            written = self._entries(puts)  # takes longer than the rest, and is in vain while another process writes
            if self.problem is not None:  # whether the disk takes anything is known when it has taken something
                self._connection.execute(f"PRAGMA user_version = {FORMAT}")
            entries.write(self._connection, written, used)
            n_expired = self._expire(self._connection) if is_expiring else 0
            n_evicted = entries.evict(self._connection, self.max_bytes, at_most=_MAX_DELETED)
        self.pending.forget(puts, used)
        self.pending.count_unkept(len(puts) - len(written))
        self.n_evicted += n_evicted
        self.used_bytes = used_bytes(self._connection)
        self._recover()
        if is_expiring and n_expired < _MAX_DELETED:
            self._expire_at = time.monotonic() + EXPIRY_INTERVAL_S
        elif n_expired or n_evicted >= _MAX_DELETED:
            self._jobs.put(None)  # the limit was lowered, or many are past their time: go on in another transaction

    def _entries(self, puts: list[Put]) -> list[Entry]:
        """Those that aren't too large."""
        made = (put.entry() for put in puts)
        return [entry for entry in made if len(entry.body) <= self.max_bytes * MAX_ANSWER_RATIO]

    def _expire(self, connection: sqlite3.Connection) -> int:
        now, ttl_s = self._clock(), self._ttl_s
        assert ttl_s is not None
        times = (now - ttl_s, now + CLOCK_SLACK_S)
        return entries.delete(connection, "WHERE created_s < ? OR created_s > ?", times, at_most=_MAX_DELETED)

    def _open(self) -> None:
        self._close()
        if file_at(self.path) != self.file:
            self.file = None  # it was deleted, and its answers with it
        make_file(self.path)
        # Before it is opened: if another one is put in its place meanwhile, that is seen at the next commit.
        self._opened = file_at(self.path)
        self._connection = open_for_writing(self.path, BUSY_TIMEOUT_S)
        self.used_bytes = used_bytes(self._connection)
        self.file = self._opened
        self.has_started.set()

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None

    def _set_aside(self, error: Exception) -> None:
        """A new file is begun with the next commit."""
        self._close()
        self.file = None
        try:
            aside = set_aside(self.path, self._opened)
        except OSError as why:
            log.error(logs.event("response_cache_not_set_aside", path=self.path, reason=why, damage=error))
        else:
            log.error(logs.event("response_cache_damaged", path=self.path, reason=error, set_aside=aside))
        self._jobs.put(None)

    def _pause(self) -> None:
        log.debug(logs.event("response_cache_busy", pending=len(self.pending)))
        time.sleep(BUSY_PAUSE_S)  # SQLite has waited before, but not in every case
        self._jobs.put(None)

    def _fail(self, error: Exception) -> None:
        """Nothing is written for a while."""
        self._retry_at = time.monotonic() + self._retry_s
        self.pending.give_up()
        if isinstance(error, ForeignFile):
            problem = f"{self.path} is another program's database: name another file"
        else:
            problem = str(error) or type(error).__name__
        if problem != self.problem:
            log.warning(logs.event("response_cache_not_written", path=self.path, reason=problem, retry_s=self._retry_s))
        self.problem = problem

    def _recover(self) -> None:
        if self.problem is not None:
            log.info(logs.event("response_cache_written_again", path=self.path))
        self.problem = None


def _closed() -> sqlite3.Error:
    return sqlite3.OperationalError("the response cache is closed")
