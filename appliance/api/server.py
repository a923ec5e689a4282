"""The HTTP server: uvicorn, stopped in our own way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Generator

import uvicorn
from fastapi import FastAPI

from appliance import logs

log = logging.getLogger(__name__)

# Requests are ended by their engine when the time to drain is up; this is for clients that don't take the end.
LINGER_S = 10


class Server(uvicorn.Server):
    """Serves until SIGTERM or SIGINT, lets requests finish, and ends the rest; a second signal doesn't wait."""

    def __init__(self, app: FastAPI, *, drain_s: float) -> None:
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=int(drain_s) + LINGER_S,
        )
        super().__init__(config)
        self._drain_s = drain_s
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
