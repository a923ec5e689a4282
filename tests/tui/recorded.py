"""A server on loopback that gives the answers a test has set and keeps what it was asked, and an app in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BaseModel
from textual.message import Message
from textual.pilot import Pilot

import tui.app
from tests.gateway import Gateway
from tests.tui import sample
from tui.app import ApplianceApp
from tui.client import Target
from tui.widgets.confirm import Confirm

DONE = b"data: [DONE]\n\n"
# No test comes near it; one that hangs says on which condition.
PATIENCE_S = 10.0


class Stream:
    """The server-sent events of one answer. The test pushes them, also before the client has come."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers
        self.client_left = asyncio.Event()
        self._frames: asyncio.Queue[bytes | None] = asyncio.Queue()

    def push(self, *events: Mapping[str, Any] | BaseModel) -> None:
        for event in events:
            text = event.model_dump_json() if isinstance(event, BaseModel) else json.dumps(event)
            self._frames.put_nowait(f"data: {text}\n\n".encode())

    def comment(self, text: str) -> None:
        self._frames.put_nowait(f": {text}\n\n".encode())

    def end(self) -> None:
        """The answer is complete."""
        self._frames.put_nowait(DONE)
        self._frames.put_nowait(None)

    def break_off(self) -> None:
        """The connection is lost in the middle of the answer."""
        self._frames.put_nowait(None)

    async def next_frame(self) -> bytes | None:
        return await self._frames.get()


@dataclass
class Asked:
    """A request that has come. ``stream`` is its answer's, if it has one."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    stream: Stream | None = None


@dataclass(frozen=True)
class Answer:
    """``body``: bytes are sent as they are, anything else as JSON."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    def content(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        if isinstance(self.body, BaseModel):
            return self.body.model_dump_json().encode()
        return json.dumps(self.body).encode()


def refusal(status: int, message: str, code: str = "refused", **headers: str) -> Answer:
    """In OpenAI's envelope, as the appliance renders its errors. ``headers``: Retry_After for Retry-After."""
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    return Answer(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


Handler = Callable[[Asked], "Answer | Stream"]


class RecordedServer:
    """Begins as :mod:`tests.tui.sample`'s machine with its two models; ``asked`` are the requests, oldest first.

    ``key``: the only key that is let in, if it isn't None.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.key: str | None = None
        self.port = 0
        self._handlers: dict[tuple[str, str], Handler] = {}
        self._gates: dict[tuple[str, str], asyncio.Event] = {}
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        for path, body in sample.answers().items():
            self.answer("GET", path, body)
        self.stream("GET", "/admin/events")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, method: str, path: str, answer: Answer | BaseModel | Mapping[str, Any] | Handler) -> None:
        """From now on; ``path`` without its query. A function gives an answer or a stream to each request."""
        if callable(answer):
            self._handlers[method, path] = answer
        else:
            whole = answer if isinstance(answer, Answer) else Answer(answer)
            self._handlers[method, path] = lambda asked: whole

    def stream(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> None:
        """Each request gets a stream of its own; see :attr:`Asked.stream`."""
        self.answer(method, path, lambda asked: Stream(headers or {}))

    def push(self, path: str, event: Mapping[str, Any]) -> None:
        """To all who listen to a stream at ``path``."""
        for asked in self.of("GET", path):
            if asked.stream is not None and not asked.stream.client_left.is_set():
                asked.stream.push(event)

    def hold(self, method: str, path: str) -> asyncio.Event:
        """Requests are answered only once the event is set."""
        return self._gates.setdefault((method, path), asyncio.Event())

    def of(self, method: str, path: str | None = None) -> list[Asked]:
        """The requests that have come, of this method and path."""
        return [a for a in self.asked if a.method == method and path in (None, a.path)]

    async def start(self) -> None:
        """The second time at the same port."""
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """All connections break."""
        if self._listener is None:
            return
        self._listener.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._listener.wait_closed()
        self._listener = None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while (asked := await _read(reader)) is not None:
                if not await self._answer(asked, reader, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # of the client's doing, or the server is stopped
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _answer(self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """False: nothing more may come over this connection."""
        answer = self._answer_to(asked)
        self.asked.append(asked)
        if (gate := self._gates.get((asked.method, asked.path))) is not None:
            await gate.wait()
        if isinstance(answer, Stream):
            await _send_stream(answer, reader, writer)
            return False
        content = answer.content()
        head = {"Content-Type": "application/json", "Content-Length": str(len(content)), **answer.headers}
        writer.write(_head(answer.status, head) + content)
        await writer.drain()
        return True

    def _answer_to(self, asked: Asked) -> Answer | Stream:
        if self.key is not None and asked.headers.get("authorization") != f"Bearer {self.key}":
            return refusal(401, "the API key isn't known", "invalid_api_key")
        handler = self._handlers.get((asked.method, asked.path))
        if handler is None:
            return refusal(404, f"{asked.method} {asked.path}: Not Found", "not_found")
        answer = handler(asked)
        asked.stream = answer if isinstance(answer, Stream) else None
        return answer


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    """The next request, or None if the client has gone."""
    line = await reader.readline()
    if not line:
        return None
    method, target, _ = line.decode().split()
    headers: dict[str, str] = {}
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    content = await reader.readexactly(int(headers.get("content-length", 0)))
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query))
    return Asked(method, unquote(parts.path), query, headers, json.loads(content) if content else None)


async def _send_stream(stream: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked", **stream.headers}))
    leaving = asyncio.create_task(reader.read(1))  # the client says nothing more until it goes
    coming = asyncio.create_task(stream.next_frame())
    try:
        while True:
            await asyncio.wait((coming, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not coming.done() or (frame := coming.result()) is None:
                return
            writer.write(f"{len(frame):x}\r\n".encode() + frame + b"\r\n")
            if frame == DONE:
                writer.write(b"0\r\n\r\n")
            await writer.drain()
            coming = asyncio.create_task(stream.next_frame())
    finally:
        leaving.cancel()
        coming.cancel()
        stream.client_left.set()


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Recorded\r\n{lines}\r\n".encode()


@contextlib.asynccontextmanager
async def recorded() -> AsyncIterator[RecordedServer]:
    """A running one, to the end of the block."""
    server = RecordedServer()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def opened(
    server: RecordedServer | Gateway,
    section: str,
    *,
    size: tuple[int, int] = (80, 24),
    key: str | None = None,
    hook: Callable[[Message], None] | None = None,
) -> AsyncIterator[Pilot[None]]:
    """The app at a section, once it has heard from the server. ``hook`` is told each message."""

    class AtSection(ApplianceApp):
        DEFAULT_MODE = section
        CSS_PATH = Path(tui.app.__file__).with_name("app.tcss")  # a relative one would be looked for here

    app = AtSection(Target(server.url, key))
    async with app.run_test(size=size, message_hook=hook) as pilot:
        await until(pilot, lambda: app.snapshot.connection.is_good)
        yield pilot


async def until(pilot: Pilot[Any], condition: Callable[[], object]) -> None:
    """Lets the app work until ``condition``; fails with what is on the screen if that never comes."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await pilot.pause(0.01)
    except TimeoutError:
        raise AssertionError(f"this was waited for in vain; the screen:\n{screen_text(pilot)}") from None
    await pilot.pause()


async def sees(pilot: Pilot[Any], *texts: str) -> None:
    """Waits until all of ``texts`` are on the screen."""
    await until(pilot, lambda: all(text in screen_text(pilot) for text in texts))


async def is_asked(pilot: Pilot[Any]) -> None:
    """Waits for the question before something dangerous, and until it can be answered."""
    await until(pilot, lambda: isinstance(pilot.app.screen, Confirm) and pilot.app.focused is not None)


async def is_told(pilot: Pilot[Any], text: str) -> None:
    """Waits for a notification that says so, in one line."""

    def told() -> list[str]:
        return [notification.message for notification in pilot.app._notifications]

    await until(pilot, lambda: any(text in message for message in told()))
    assert all("\n" not in message for message in told())


def screen_text(pilot: Pilot[Any]) -> str:
    """What is on the screen, as lines of text."""
    strips = pilot.app.screen._compositor.render_strips()
    return "\n".join(strip.text.rstrip() for strip in strips)
