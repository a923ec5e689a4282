"""llama-cpp-python's own server, which computes one request at a time."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from bench.errors import BenchError
from bench.peers.base import LLAMA_SERVER, RunningPeer, Setup
from bench.process import free_port, run_server


class LlamaCppPython:
    name = "llama_cpp.server"

    def __init__(self) -> None:
        """Raises BenchError if its packages are missing."""
        for module in ("sse_starlette", "starlette_context", "yaml"):
            if importlib.util.find_spec(module) is None:
                raise BenchError(
                    f"{self.name} needs {module}: `.venv/bin/pip install --require-hashes -r requirements/bench.txt` "
                    f"installs it, and so does `make bench`; or leave it out with --peers {LLAMA_SERVER}"
                )

    def describe(self) -> str:
        return (
            f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}, the same build of llama.cpp as the "
            "appliance's; --n_threads THREADS --n_threads_batch THREADS --n_ctx CONTEXT --interrupt_requests false"
        )

    @contextlib.asynccontextmanager
    async def serve(self, setup: Setup, log: Path) -> AsyncIterator[RunningPeer]:
        port = free_port()
        command: list[str | Path] = [sys.executable, "-m", "llama_cpp.server", "--model", setup.gguf]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        command += ["--n_threads", str(setup.n_threads), "--n_threads_batch", str(setup.n_threads)]
        # Otherwise a second request ends the first one.
        command += ["--n_ctx", str(setup.n_ctx), "--interrupt_requests", "false"]
        async with run_server(command, port=port, health_path="/v1/models", log=log) as process:
            yield RunningPeer(self.name, process.endpoint, process)
