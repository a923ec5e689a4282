"""What a server must tell and do to be measured."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.client import Endpoint
from bench.process import ServerProcess

# llama-server's two builds are one peer with two members.
LLAMA_SERVER = "llama-server"
APPLIANCE = "this appliance"


@dataclass(frozen=True)
class Setup:
    """What every server gets alike. ``n_ctx`` is the context of all slots together, in tokens.

    A model that ``is_embedding`` gives vectors of texts.
    """

    gguf: Path
    n_threads: int
    n_ctx: int
    n_slots: int
    is_embedding: bool = False


@dataclass(frozen=True)
class RunningPeer:
    """``process`` is None where the server is not ours."""

    name: str
    endpoint: Endpoint
    process: ServerProcess | None


class Peer(Protocol):
    @property
    def name(self) -> str: ...

    def describe(self) -> str:
        """Its version and the flags it is started with; no paths."""

    def serve(self, setup: Setup, log: Path) -> AbstractAsyncContextManager[RunningPeer]:
        """Runs it as ``setup`` says; what it prints goes to ``log``.

        Raises:
            BenchError: it can't be started.
        """
