"""The HTTP server: uvicorn, stopped in our own way and with timers for clients that don't move."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from appliance import logs
from appliance.api.errors import envelope
from appliance.errors import EngineUnavailable

log = logging.getLogger(__name__)

# Requests are ended by their engine when the time to drain is up; this is for clients that don't take the end.
LINGER_S = 10
HEADERS_TIMEOUT_S = 10.0
WRITE_STALL_S = 30.0


@dataclass(frozen=True, slots=True)
class ServerOptions:
    drain_s: float = 30.0
    max_connections: int = 1024
    root_path: str = ""
    # Addresses of proxies whose X-Forwarded-* headers are believed, comma-separated; empty: none.
    trusted_proxies: str = ""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    headers_timeout_s: float = HEADERS_TIMEOUT_S
    write_stall_s: float = WRITE_STALL_S


def protocol(options: ServerOptions) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, which has no timer for a request's headers and none for a client that doesn't read."""

    class Protocol(HttpToolsProtocol):
        _headers_timer: asyncio.TimerHandle | None = None
        _write_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > options.max_connections:
                transport.write(_BUSY)
                transport.close()
                return
            self._wait_for_headers()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._wait_for_headers()

        def on_headers_complete(self) -> None:
            _cancel(self._headers_timer)
            super().on_headers_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._write_timer = self.loop.call_later(options.write_stall_s, self._give_up, "does_not_read")

        def resume_writing(self) -> None:
            _cancel(self._write_timer)
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            _cancel(self._headers_timer)
            _cancel(self._write_timer)
            super().connection_lost(exc)

        def _wait_for_headers(self) -> None:
            _cancel(self._headers_timer)
            self._headers_timer = self.loop.call_later(options.headers_timeout_s, self._give_up, "sends_no_headers")

        def _give_up(self, reason: str) -> None:
            log.warning(logs.event("connection_aborted", reason=reason, client=(self.client or ("?",))[0]))
            self.transport.abort()

    return Protocol


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


_BODY = orjson.dumps(envelope(EngineUnavailable("the server has as many connections as it takes; try again later")))
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: " + str(len(_BODY)).encode() + b"\r\n\r\n" + _BODY
)


class Server(uvicorn.Server):
    """Serves until SIGTERM or SIGINT, lets requests finish, and ends the rest; a second signal doesn't wait."""

    def __init__(self, app: ASGIApp, options: ServerOptions, *, on_stop: Callable[[], None]) -> None:
        """``on_stop`` is called when a stop begins."""
        arguments: dict[str, Any] = {}
        if options.tls_cert is not None:
            arguments = {"ssl_certfile": str(options.tls_cert), "ssl_keyfile": options.tls_key and str(options.tls_key)}
        config = uvicorn.Config(
            app,
            http=protocol(options),
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            root_path=options.root_path,
            proxy_headers=bool(options.trusted_proxies),
            forwarded_allow_ips=options.trusted_proxies or None,
            timeout_graceful_shutdown=int(options.drain_s) + LINGER_S,
            **arguments,
        )
        config.load()
        if config.ssl is not None:
            config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        super().__init__(config)
        self._drain_s = options.drain_s
        self._on_stop = on_stop
        self._end_now = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Takes the signals for this server; uvicorn would raise them again at its end, and exit by them."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Takes no more requests. Those that run have ``drain_s`` to finish; called again, no time at all."""
        if self.should_exit:
            self._end_now.set()
            return
        self.should_exit = True
        self._on_stop()
        n_requests = len(self.server_state.tasks)
        if n_requests:
            log.info(logs.event("stopping", requests_running=n_requests, drain_s=self._drain_s, again="ends them now"))
        asyncio.get_running_loop().call_later(self._drain_s, self._end_now.set)

    async def run_until_stopped(self, listener: socket.socket, end_requests: Callable[[], Awaitable[None]]) -> None:
        """Serves on ``listener``; ``end_requests`` is awaited once no request may run any longer."""
        serving = asyncio.create_task(self.serve([listener]))
        ending = asyncio.create_task(self._end_now.wait())
        await asyncio.wait((serving, ending), return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        await end_requests()
        await serving
