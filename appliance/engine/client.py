"""The gateway's end of an engine process: starts it, and gives each request its events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from typing import cast

from appliance import logs
from appliance.engine.messages import (
    MAX_FRAME_BYTES,
    Abort,
    Command,
    Detokenize,
    Embed,
    EngineConfig,
    Event,
    Events,
    FrameReader,
    Load,
    LoadFailed,
    LoadProgress,
    Ready,
    Report,
    Stop,
    Submit,
    Terminal,
    Tokenize,
    encode,
)
from appliance.engine.output import EngineOutput
from appliance.errors import EngineCrashed, EngineFailed, EngineOutOfMemory, InvalidRequest, QueueFull

log = logging.getLogger(__name__)

# How long a process may take to end after it has closed its socket.
END_GRACE_S = 5.0
# How long to read on when the process has ended: until the end, unless something else has got hold of the pipe.
OUTPUT_WAIT_S = 1.0
# The part of the queue that one API key may fill; the rest is there for the others.
MAX_QUEUE_SHARE = 0.75


class EngineProcess:
    """An engine process and our end of its socket. Started without an event loop, so that it loads meanwhile."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        log_level: str,
        log_format: str,
        module: str = "appliance.engine.llama",
        on_log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """``module`` is run with the number of its socket and how to log as arguments.

        What it writes goes to our stderr. ``on_log`` gets each line too, on another thread, and must not raise.
        """
        self.socket, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as on_error:
            on_error.callback(self.socket.close)
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno()), log_level, log_format],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
            )
            on_error.pop_all()
        assert self._process.stdout is not None
        self._output = EngineOutput(self._process.stdout, on_log)
        self.pid = self._process.pid
        with contextlib.suppress(OSError):  # it has ended already: its closed socket will tell
            self.socket.sendall(encode(config))

    def kill(self) -> None:
        """Ends the process at once, also one that is stopped or does not answer."""
        self._process.kill()

    async def end(self, grace_s: float) -> None:
        """Waits until the process has ended and its output is read; kills it if that takes longer than ``grace_s``."""
        waiting = asyncio.create_task(asyncio.to_thread(self._process.wait))
        done, _ = await asyncio.wait([waiting], timeout=grace_s)
        if not done:
            log.error(logs.event("engine_killed", pid=self.pid, reason="it did not end by itself"))
            self._process.kill()
            await waiting
        await asyncio.to_thread(self._output.wait, OUTPUT_WAIT_S)

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether an ended process said so at its end."""
        return self._process.wait() != 0 and self._output.ran_out_of_memory

    def exit_reason(self, when: str = "") -> str:
        """Why an ended process ended, in words, and what it said last if it crashed. ``when`` is put in."""
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return f"was ended by SIGKILL{when}; the machine may be out of memory"
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        last_words = self._output.last_words if code else ""
        return f"{how}{when}: {last_words}" if last_words else f"{how}{when}"


class EventStream:
    """The events of one request, in order; the last one is terminal."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._wakeup: asyncio.Future[None] | None = None
        self._is_closed = False

    def push(self, event: Event) -> None:
        if self._is_closed:
            return
        self._events.append(event)
        self._wake()

    def close(self) -> None:
        """No more events will come."""
        self._is_closed = True
        self._wake()

    async def next_events(self) -> list[Event]:
        """All events that have come since the last call; waits until there is one.

        Raises:
            EngineCrashed: the process ended before the request did.
        """
        while not self._events:
            if self._is_closed:
                raise EngineCrashed("the model's engine process ended while it worked on this request; try again")
            self._wakeup = asyncio.get_running_loop().create_future()
            await self._wakeup
        events = list(self._events)
        self._events.clear()
        return events

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)


class _Connection(asyncio.Protocol):
    """Our end of the socket. Reports are taken where they arrive: a task of its own would cost a wake-up each."""

    def __init__(self, take: Callable[[Report], None]) -> None:
        self.closed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._take = take
        self._frames: FrameReader[Report] = FrameReader(Report)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has another base

    def data_received(self, data: bytes) -> None:
        try:
            for report in self._frames.feed(data):
                self._take(report)
        except ValueError as error:
            self._close(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._close(exc)

    def write(self, frame: bytes) -> None:
        if self._transport is not None:
            self._transport.write(frame)

    def _close(self, error: Exception | None) -> None:
        assert self._transport is not None
        self._transport.abort()
        if not self.closed.done():
            self.closed.set_result(error)


class EngineClient:
    """Talks to one engine process on the running event loop."""

    def __init__(
        self, process: EngineProcess, *, max_open: int, on_progress: Callable[[float], None] = lambda ratio: None
    ) -> None:
        """``max_open``: how many requests may run and wait together. ``on_progress`` is told how far loading is."""
        self._process = process
        self._max_open = max_open
        self.has_ended = False
        self.load: Load | None = None
        # The part of the weights that is loaded; None until the engine has said so.
        self.load_progress: float | None = None
        self._on_progress = on_progress
        # The mean time between two requests' ends while others were open.
        self._gap_s = 0.0
        self._ended_at: float | None = None
        self._heard_at = asyncio.get_running_loop().time()
        self._kill_reason = ""
        self._n_open_by_key: Counter[str] = Counter()
        self._streams: dict[str, EventStream] = {}
        self._ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._connection = _Connection(self._take)
        self._serving = asyncio.create_task(self._serve())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def silent_s(self) -> float:
        """Seconds since the engine last told anything, while it loads or has work; 0 if it has none."""
        if not self._streams and self._ready.done():
            return 0.0
        return asyncio.get_running_loop().time() - self._heard_at

    def exit_reason(self) -> str:
        """Why the process ended, in words; it must have ended."""
        return self._kill_reason or self._process.exit_reason()

    async def ready(self) -> Ready:
        """Waits until the model is loaded.

        Raises:
            EngineFailed: it can't be loaded.
            EngineCrashed: the process ended first.
        """
        return await asyncio.shield(self._ready)

    async def ended(self) -> None:
        """Waits until the engine's socket has closed; all its requests have ended then."""
        await asyncio.shield(self._serving)

    @contextlib.asynccontextmanager
    async def submit(self, message: Submit | Embed | Tokenize | Detokenize) -> AsyncIterator[EventStream]:
        """Sends a request and gives its events. Leaving the block before its end aborts it.

        Raises:
            QueueFull: as many requests as are allowed run and wait already.
        """
        key = message.key if isinstance(message, Submit | Embed) else ""
        self._check_queue(key)
        stream = EventStream()
        frame = encode(message)
        if len(frame) > MAX_FRAME_BYTES:
            raise InvalidRequest(f"the request is too large: {len(frame)} bytes for the engine")
        self._n_open_by_key[key] += 1
        try:
            if self.has_ended:
                stream.close()
            else:
                if not self._streams:  # it had nothing to tell until now
                    self._heard_at = asyncio.get_running_loop().time()
                self._streams[message.request_id] = stream
                self._write(frame)
            yield stream
        finally:
            self._n_open_by_key[key] -= 1
            if self._streams.pop(message.request_id, None) is not None:
                self._send(Abort(message.request_id))

    def _check_queue(self, key: str) -> None:
        n_open = self._n_open_by_key.total()
        if n_open >= self._max_open:
            raise QueueFull(
                f"{n_open} requests run and wait already; try again later", retry_after_s=self._retry_after_s()
            )
        if key and self._n_open_by_key[key] >= max(1, int(self._max_open * MAX_QUEUE_SHARE)):
            raise QueueFull(
                f"{self._n_open_by_key[key]} requests of this key run and wait already; try again later",
                retry_after_s=self._retry_after_s(),
            )

    async def stop(self, grace_s: float) -> None:
        """Asks the process to end, and ends it if it hasn't within ``grace_s``."""
        self._send(Stop())
        await self._process.end(grace_s)
        await self._serving

    def kill(self, reason: str) -> None:
        """Ends the process at once; all its requests fail, and :meth:`ended` returns soon.

        ``reason`` becomes its :meth:`exit_reason`, such as "was ended since ...".
        """
        if not self.has_ended:
            self._kill_reason = self._kill_reason or reason
        self._process.kill()

    def _send(self, command: Command) -> None:
        self._write(encode(command))

    def _write(self, frame: bytes) -> None:
        if not self.has_ended:
            self._connection.write(frame)

    async def _serve(self) -> None:
        """Lasts as long as the connection, and until the process has ended."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self._connection, sock=self._process.socket)
        try:
            error = await self._connection.closed
            if error is not None:
                log.error(logs.event("engine_connection_broken", pid=self._process.pid, reason=error))
        finally:
            # From here on nothing is sent; whoever asks for an engine waits for the next one.
            self.has_ended = True
            for stream in self._streams.values():
                stream.close()
            self._streams.clear()
            await self._process.end(END_GRACE_S)
            if not self._ready.done():
                why = self._kill_reason or self._process.exit_reason(" while it loaded the model")
                reason = f"the engine process {why}"
                # On some failures to allocate, ggml aborts the process.
                ran_out = self._process.ran_out_of_memory
                self._fail_to_load(EngineOutOfMemory(reason) if ran_out else EngineCrashed(reason))

    def _take(self, report: Report) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        match report:
            case Events(events, load):
                self.load = load
                for event in events:
                    stream = self._streams.get(event.request_id)
                    if stream is None:
                        continue  # the client has left; the abort is under way
                    stream.push(event)
                    if isinstance(event, Terminal):
                        del self._streams[event.request_id]
                        self._note_end()
            case Ready():
                self._ready.set_result(report)
            case LoadProgress(ratio):
                self.load_progress = ratio
                self._on_progress(ratio)
            case LoadFailed(message, is_out_of_memory):
                self._fail_to_load(EngineOutOfMemory(message) if is_out_of_memory else EngineFailed(message))

    def _note_end(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._ended_at is not None and self._streams:
            self._gap_s += (now - self._ended_at - self._gap_s) / 8
        self._ended_at = now

    def _retry_after_s(self) -> int:
        """When half of what is open now should have ended, at the pace of the latest requests."""
        return min(600, max(1, math.ceil(self._gap_s * len(self._streams) / 2)))

    def _fail_to_load(self, error: EngineFailed | EngineCrashed) -> None:
        self._ready.set_exception(error)
        self._ready.exception()  # nobody may be waiting for it
