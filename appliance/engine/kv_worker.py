"""The thread that reads and writes computed prefixes, so that the engine waits for no disk."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import mmap
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.engine.kv_file import CHUNK_BYTES, Prefix, Reason, Rejected
from appliance.engine.kv_folder import KVFolder, Stored
from appliance.hardware.ram import read_ram

log = logging.getLogger(__name__)

# After each piece that is written while the engine computes: the thread takes a core for some 3 % of the time.
PAUSE_S = 0.02
# How long one that is told to give up may take for the piece that it is at.
GIVE_UP_S = 0.3


@dataclass(frozen=True, slots=True)
class Allocate:
    """Asks for memory whose pages are there: those that are new cost four times what it takes to fill them."""

    n_bytes: int


@dataclass(frozen=True, slots=True)
class Write:
    """Asks for a file with ``payload``, instead of the ``superseded`` ones."""

    prefix: Prefix
    payload: memoryview
    superseded: tuple[Stored, ...]


@dataclass(frozen=True, slots=True)
class Refuse:
    """Asks to remove a file whose payload was whole, and that llama.cpp would not have all the same."""

    stored: Stored


@dataclass(frozen=True, slots=True)
class Found:
    """A file was there at the start."""

    stored: Stored


@dataclass(frozen=True, slots=True)
class Dropped:
    """A file that could not be used is no more."""

    path: Path
    reason: Reason


@dataclass(frozen=True, slots=True)
class Fetched:
    """``payload`` None: the file could not be used. ``took_s``: how long it took to read it."""

    stored: Stored
    payload: memoryview | None
    took_s: float


@dataclass(frozen=True, slots=True)
class Allocated:
    buffer: memoryview


@dataclass(frozen=True, slots=True)
class Written:
    stored: Stored
    superseded: tuple[Stored, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """What was to be allocated or written isn't."""

    error: OSError


Job = Allocate | Write | Refuse
Result = Found | Dropped | Fetched | Allocated | Written | Failed


class KVWorker:
    """``is_engine_busy``: somebody waits for what the engine computes, so the processor is left to it."""

    def __init__(self, folder: KVFolder, wake: Callable[[], None]) -> None:
        """``wake`` is called on the thread when there are results."""
        self.is_engine_busy = False
        self._is_given_up = False
        self._folder = folder
        self._wake = wake
        self._jobs: queue.SimpleQueue[Job | Stored | None] = queue.SimpleQueue()
        self._reads: queue.SimpleQueue[Stored] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._has_results = threading.Event()
        self._has_scanned = threading.Event()
        # A daemon: an engine that ends waits no longer for a disk than stop() says.
        self._thread = threading.Thread(target=self._work, name="kv-disk", daemon=True)
        self._thread.start()

    def do(self, job: Job) -> None:
        self._jobs.put(job)

    def read(self, stored: Stored) -> None:
        """Comes before all that is to be written: somebody waits for it."""
        self._reads.put(stored)
        self._jobs.put(stored)

    def results(self) -> Iterator[Result]:
        """Those that have come since the last call."""
        self._has_results.clear()
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._results.get_nowait()

    def wait(self, timeout_s: float) -> None:
        """Waits until there are results, or so long."""
        self._has_results.wait(timeout_s)

    def wait_for_scan(self, timeout_s: float) -> None:
        """Waits until it is known what there is, or so long."""
        self._has_scanned.wait(timeout_s)

    def stop(self, timeout_s: float) -> bool:
        """Ends the thread when it has done what there is to do; after this time it gives up. False if it hangs."""
        self.is_engine_busy = False
        self._jobs.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._is_given_up = True  # so that no file is left half written, if the disk is only slow
            self._thread.join(GIVE_UP_S)
        return not self._thread.is_alive()

    def _put(self, *results: Result) -> None:
        for result in results:
            self._results.put(result)
        self._has_results.set()
        self._wake()

    def _work(self) -> None:
        try:
            self._put(*map(Found, self._folder.scan(lambda path, error: self._put(Dropped(path, error.reason)))))
        except OSError as error:
            log.warning("kv_disk_unread: %s", error)
        self._has_scanned.set()
        while (job := self._jobs.get()) is not None:
            self._read_all()
            try:
                match job:
                    case Allocate(n_bytes):
                        self._put(Allocated(self._allocate(n_bytes)))
                    case Write(prefix, payload, superseded):
                        written = self._folder.write(prefix, payload, self._give_way)
                        for old in superseded:
                            self._folder.remove(old)
                        self._put(Written(written, superseded))
                    case Refuse(stored):
                        self._folder.reject(stored.path, Rejected("refused", "llama.cpp does not take it"))
            except OSError as error:
                self._put(Failed(error))

    def _read_all(self) -> None:
        while not self._reads.empty():
            self._read(self._reads.get())

    def _read(self, stored: Stored) -> None:
        begun_at = time.monotonic()
        try:
            if not _has_room(stored.header.n_bytes):
                raise Rejected("unread", "there is no memory for it")
            payload = self._folder.read(stored)
            self._put(Fetched(stored, payload, time.monotonic() - begun_at))
        except Rejected as error:
            self._put(Dropped(stored.path, error.reason), Fetched(stored, None, 0.0))

    def _give_way(self) -> None:
        """Between two pieces of what is written. Raises OSError if it isn't wanted any more."""
        if self._is_given_up:
            raise OSError(errno.ECANCELED, "the engine has ended")
        self._read_all()
        if self.is_engine_busy:
            with contextlib.suppress(queue.Empty):
                self._read(self._reads.get(timeout=PAUSE_S))

    def _allocate(self, n_bytes: int) -> memoryview:
        """Raises OSError if there is no memory for it."""
        if not _has_room(n_bytes):
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        buffer = memoryview(mmap.mmap(-1, n_bytes))
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        for start in range(0, n_bytes, CHUNK_BYTES):
            ctypes.memset(address + start, 0, min(CHUNK_BYTES, n_bytes - start))
            self._give_way()
        return buffer


def _has_room(n_bytes: int) -> bool:
    """Whether half of the memory that is free is enough: the ledger of models doesn't know of it."""
    return 2 * n_bytes <= read_ram().room_bytes
