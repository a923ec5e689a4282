"""A server that runs already, at a given address."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from bench.client import Endpoint, fetch_json
from bench.errors import BenchError
from bench.peers.base import RunningPeer, Setup


class Remote:
    """Any OpenAI-compatible endpoint. Its model, threads, context and slots are whatever it was started with."""

    name = "--url"

    def __init__(self, url: str) -> None:
        """``url`` with or without ``/v1`` at its end."""
        self._url = url.rstrip("/").removesuffix("/v1")

    def describe(self) -> str:
        return "a server that ran already, with settings of its own"

    @contextlib.asynccontextmanager
    async def serve(self, setup: Setup, log: Path) -> AsyncIterator[RunningPeer]:
        try:
            models = await fetch_json(Endpoint(self._url), "GET", "/v1/models")
        except OSError as error:
            raise BenchError(f"nothing answers at {self._url}: {error}") from None
        yield RunningPeer(self.name, Endpoint(self._url, models["data"][0]["id"]), None)
