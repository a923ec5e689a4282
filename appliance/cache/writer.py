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
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from appliance import logs
from appliance.cache.answer import Answer
from appliance.cache.schema import (
    DamagedFile,
    ForeignFile,
    inode_of,
    is_busy,
    is_damage,
    open_for_writing,
    set_aside,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

# How often it is written down which answers were used; a crash forgets at most that.
TOUCH_INTERVAL_S = 5.0
# How long a commit waits for another process, and after how long one that failed is tried again.
BUSY_TIMEOUT_S = 0.5
BUSY_PAUSE_S = 0.05
RETRY_S = 30.0
# How often entries are looked for that are past their time.
EXPIRY_INTERVAL_S = 600.0
# Tokens of answers that wait to be written, at some 200 bytes each; what comes beyond is not kept.
MAX_PENDING_TOKENS = 1 << 19
# An entry dated later than now by more than this was written before the clock was set back: its age isn't known.
CLOCK_SLACK_S = 60.0
# No single answer may push out more than this part of all others.
MAX_ANSWER_RATIO = 0.25
# Evicted between two looks at the size, and at most in one transaction: all that it changes goes to the WAL first.
_EVICTED_AT_ONCE = 64
_MAX_ROUNDS = 32


@dataclass(frozen=True, slots=True)
class Put:
    """An answer to be kept. ``owner`` is the name of the API key that asked, ``created_s`` the wall clock's."""

    key: bytes
    model: str
    version: str
    owner: str
    created_s: float
    answer: Answer


class Writer:
    """Owns the connection that writes. All attributes without an underscore may be read by other threads."""

    def __init__(self, path: Path, *, max_bytes: int, ttl_s: float | None, clock: Callable[[], float]) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.pending: dict[bytes, Put] = {}
        self.used_bytes = 0
        self.n_evicted = 0
        self.n_unkept = 0
        # Why nothing is written at the moment; None: it is.
        self.problem: str | None = None
        # Raised whenever another file stands at the path: readers then open it anew.
        self.generation = 0
        self.is_open = threading.Event()
        self._ttl_s = ttl_s
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._inode: int | None = None
        self._touched: set[int] = set()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._is_stopping = False
        self._lock = threading.Lock()  # of what waits: the event loop adds to it
        self._n_pending_tokens = 0
        self._retry_at = 0.0
        self._expire_at = 0.0
        self._thread = threading.Thread(target=self._run, name="response-cache-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, put: Put) -> None:
        """Keeps an answer; it is found from now on, and written soon."""
        with self._lock:
            if self._n_pending_tokens > MAX_PENDING_TOKENS:
                self.n_unkept += 1
                return
            before = self.pending.get(put.key)
            self.pending[put.key] = put
            self._n_pending_tokens += put.answer.n_completion - (before.answer.n_completion if before else 0)
        self._jobs.put(_wake)

    def touch(self, entry: int) -> None:
        """Notes that an entry was used."""
        self._touched.add(entry)

    def report_damage(self, inode: int | None) -> None:
        """A reader has found the file of this inode to be damaged."""
        self._jobs.put(lambda: self._replace(inode))

    def run(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """``work`` done with the connection, behind all that was put before.

        The future raises what ``work`` does; sqlite3.OperationalError if there is no file to work with.
        """
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                if self._connection is None:
                    raise sqlite3.OperationalError(self.problem or "the response cache's file is not open")
                future.set_result(work(self._connection))
                self._measure()
            except BaseException as error:
                future.set_exception(error)
                if isinstance(error, sqlite3.Error):
                    self._get_over(error)

        self._jobs.put(job)
        return future

    def stop(self, timeout_s: float) -> None:
        """Writes what waits and ends the thread; gives up after ``timeout_s``."""
        self._is_stopping = True
        self._jobs.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        self._open()
        self.is_open.set()
        while True:
            jobs = self._wait()
            self._commit()
            for job in jobs:
                if job is None:
                    self._close()
                    return
                job()

    def _wait(self) -> list[Callable[[], None] | None]:
        """The jobs that have come, all of them at once: so commits are as large as they come fast."""
        jobs: list[Callable[[], None] | None] = []
        with contextlib.suppress(queue.Empty):
            jobs.append(self._jobs.get(timeout=TOUCH_INTERVAL_S))
            while True:
                jobs.append(self._jobs.get_nowait())
        return jobs

    def _open(self) -> None:
        for _ in range(2):  # the second time after a damaged file has been set aside
            inode = inode_of(self.path)
            try:
                self._connection = open_for_writing(self.path, BUSY_TIMEOUT_S)
            except ForeignFile:
                self._fail(f"{self.path} is another program's database: name another file")
            except DamagedFile as error:
                log.warning(logs.event("response_cache_unusable", reason=error))
                self._set_aside(inode)
                continue
            except sqlite3.Error as error:
                if is_damage(error):
                    self._set_aside(inode)
                    continue
                self._fail(str(error))
            except OSError as error:
                self._fail(error.strerror or str(error))
            else:
                self._inode = inode_of(self.path)
                self._recover()
                self._measure()
            return

    def _set_aside(self, inode: int | None) -> None:
        try:
            set_aside(self.path, inode)
        except OSError as error:
            self._fail(f"it is damaged, and can't be renamed: {error.strerror}")

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None

    def _replace(self, inode: int | None) -> None:
        """Sets the file aside, if it is the one that was found to be damaged, and starts a new one."""
        if inode is None or inode != self._inode:
            return
        self._close()
        self._set_aside(inode)
        self._reopen()
        self._jobs.put(_wake)  # for what still waits

    def _reopen(self) -> None:
        self._close()
        self._open()
        self.generation += 1

    def _commit(self) -> None:
        """Writes what waits, if it can be written now."""
        now = time.monotonic()
        if now < self._retry_at and not self._is_stopping:
            self._let_go()
            return
        if self._connection is None or inode_of(self.path) != self._inode:
            self._reopen()
        if self._connection is None:
            self._let_go()
            return
        puts = list(self.pending.values())
        touched = list(self._touched)
        is_expiring = self._ttl_s is not None and now >= self._expire_at
        if not (puts or touched or is_expiring):
            return
        try:
            with transaction(self._connection):
                self._write(self._connection, puts, touched)
                if is_expiring:
                    self._expire(self._connection)
                self._evict(self._connection)
            self._measure()
        except sqlite3.Error as error:
            self._get_over(error)
            return
        if is_expiring:
            self._expire_at = now + EXPIRY_INTERVAL_S
        self._touched.difference_update(touched)
        self._forget(puts)
        self._recover()

    def _write(self, connection: sqlite3.Connection, puts: list[Put], touched: list[int]) -> None:
        # By numbers, and not by a clock that may be set back: the latest use has the greatest.
        used = 1 + connection.execute("SELECT coalesce(max(used), 0) FROM entries").fetchone()[0]
        connection.executemany("UPDATE entries SET used = ? WHERE id = ?", ((used, entry) for entry in touched))
        for put in puts:
            body = put.answer.encode()
            if len(body) > self.max_bytes * MAX_ANSWER_RATIO:
                self.n_unkept += 1
                continue
            facts = (put.key, put.model, put.version, put.owner, put.created_s, used, put.answer.n_tokens)
            (entry,) = connection.execute(_PUT_ENTRY, (*facts, checksum(put.key, body))).fetchone()
            connection.execute("INSERT OR REPLACE INTO answers (id, body) VALUES (?, ?)", (entry, body))

    def _expire(self, connection: sqlite3.Connection) -> None:
        now, ttl_s = self._clock(), self._ttl_s
        assert ttl_s is not None
        delete(connection, "created_s < ? OR created_s > ?", (now - ttl_s, now + CLOCK_SLACK_S))

    def _evict(self, connection: sqlite3.Connection) -> None:
        longest_unused = f"id IN (SELECT id FROM entries ORDER BY used, id LIMIT {_EVICTED_AT_ONCE})"
        for _ in range(_MAX_ROUNDS):
            if used_bytes(connection) <= self.max_bytes:
                return
            n_deleted = delete(connection, longest_unused, ())
            self.n_evicted += n_deleted
            if not n_deleted:
                return
        self._jobs.put(_wake)  # the limit was lowered: go on in the next transaction

    def _measure(self) -> None:
        if self._connection is not None:
            self.used_bytes = used_bytes(self._connection)

    def _get_over(self, error: sqlite3.Error) -> None:
        if is_busy(error) and not self._is_stopping:
            log.debug(logs.event("response_cache_busy", pending=len(self.pending)))
            time.sleep(BUSY_PAUSE_S)  # SQLite has waited before, but not in every case
            self._jobs.put(_wake)
        elif is_damage(error):
            self._replace(self._inode)
        else:
            self._fail(str(error))
            self._let_go()

    def _fail(self, problem: str) -> None:
        """Nothing is written for a while."""
        self._retry_at = time.monotonic() + RETRY_S
        if problem != self.problem:
            log.warning(logs.event("response_cache_not_written", path=self.path, reason=problem, retry_s=RETRY_S))
        self.problem = problem

    def _recover(self) -> None:
        if self.problem is not None:
            log.info(logs.event("response_cache_written_again", path=self.path))
        self.problem = None
        self._retry_at = 0.0

    def _let_go(self) -> None:
        puts = list(self.pending.values())
        self.n_unkept += len(puts)
        self._forget(puts)

    def _forget(self, puts: list[Put]) -> None:
        """They are written, or given up; another answer of the same key may have come meanwhile."""
        with self._lock:
            for put in puts:
                if self.pending.get(put.key) is put:
                    del self.pending[put.key]
                    self._n_pending_tokens -= put.answer.n_completion


_PUT_ENTRY = """
INSERT INTO entries (key, model, version, owner, created_s, used, n_tokens, checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET model = excluded.model, version = excluded.version, owner = excluded.owner,
    created_s = excluded.created_s, used = excluded.used, n_tokens = excluded.n_tokens, checksum = excluded.checksum
RETURNING id
"""


def used_bytes(connection: sqlite3.Connection) -> int:
    """What is used of the file, which never shrinks by itself but is filled again."""
    page_size, n_pages, n_free = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
    )
    return int(page_size * (n_pages - n_free))


def delete(connection: sqlite3.Connection, condition: str, values: tuple[object, ...]) -> int:
    """How many entries met the condition, and are gone with their answers. Inside a transaction."""
    ids = [(entry,) for (entry,) in connection.execute(f"SELECT id FROM entries WHERE {condition}", values)]
    connection.executemany("DELETE FROM answers WHERE id = ?", ids)
    connection.executemany("DELETE FROM entries WHERE id = ?", ids)
    return len(ids)


def checksum(key: bytes, body: bytes) -> int:
    """Binds an answer to its key: what a damaged file gives under another key is none."""
    return zlib.crc32(body, zlib.crc32(key))


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commits what is done in the block, or none of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def _wake() -> None:
    """A job that is done when the thread has woken up for it."""
