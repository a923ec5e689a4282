"""llama.cpp's own server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from bench.peers.base import RunningPeer, Setup
from bench.process import free_port, run_server

# Its best settings for these workloads, as measured; README.md says why.
FLAGS = ("--no-ui", "--no-slots", "--no-kv-unified", "--cache-ram", "0", "--log-verbosity", "1")


@dataclass(frozen=True)
class LlamaServer:
    """``version`` is what the report calls this binary."""

    name: str
    binary: Path
    version: str

    def describe(self) -> str:
        return f"{self.version}; -t THREADS -tb THREADS -c CONTEXT -np SLOTS {' '.join(FLAGS)}"

    @contextlib.asynccontextmanager
    async def serve(self, setup: Setup, log: Path) -> AsyncIterator[RunningPeer]:
        port = free_port()
        command: list[str | Path] = [self.binary, "-m", setup.gguf, "--host", "127.0.0.1", "--port", str(port)]
        command += ["-t", str(setup.n_threads), "-tb", str(setup.n_threads)]
        command += ["-c", str(setup.n_ctx), "-np", str(setup.n_slots), *FLAGS]
        if setup.is_embedding:
            command.append("--embeddings")
        async with run_server(command, port=port, health_path="/health", log=log) as process:
            yield RunningPeer(self.name, process.endpoint, process)
