"""This appliance, started as a user would: ``appliance serve`` over a stored model."""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from appliance import __version__
from appliance.models.lock import SCHEMA, Entry, FileSource, Version
from appliance.models.lock_file import change_lock, with_entry
from appliance.models.store import ModelStore, describe
from bench.peers.base import APPLIANCE, RunningPeer, Setup
from bench.process import clean_environment, free_port, run_server

MODEL = "bench"


class Appliance:
    name = APPLIANCE

    def __init__(self, store: Path) -> None:
        """``store``: a folder for the models that are measured; they are published to it when first served."""
        self._store = store

    def describe(self) -> str:
        return (
            f"{__version__} with llama-cpp-python {importlib.metadata.version('llama-cpp-python')}; "
            "n_threads=THREADS n_ctx=CONTEXT max_running=SLOTS response_cache=false"
        )

    @contextlib.asynccontextmanager
    async def serve(
        self, setup: Setup, log: Path, *, keys: Path | None = None, state_dir: Path | None = None
    ) -> AsyncIterator[RunningPeer]:
        """``keys``: a file of API keys, if it shall want them. ``state_dir``: where it writes its admin token."""
        port = free_port()
        with tempfile.TemporaryDirectory(prefix="appliance-bench-") as scratch:
            settings = {
                "APPLIANCE_STATE_DIR": str(state_dir or scratch),
                "APPLIANCE_MODELS_DIR": str(self._store),
                "APPLIANCE_MODELS_LOCK": str(publish(setup.gguf, self._store)),
                "APPLIANCE_N_THREADS": str(setup.n_threads),
                "APPLIANCE_N_CTX": str(setup.n_ctx),
                "APPLIANCE_MAX_RUNNING": str(setup.n_slots),
                "APPLIANCE_LOG_LEVEL": "warning",
                "APPLIANCE_DRAIN_S": "0",
                # Peers compute every answer, and so does this one.
                "APPLIANCE_RESPONSE_CACHE": "false",
            }
            if keys is not None:
                settings["APPLIANCE_API_KEYS_FILE"] = str(keys)
            command = [sys.executable, "-m", "appliance", "serve", "--port", str(port)]
            environment = clean_environment(**settings)
            async with run_server(
                command, port=port, health_path="/health/ready", log=log, environment=environment
            ) as process:
                yield RunningPeer(self.name, process.endpoint, process)


def publish(gguf: Path, store: Path) -> Path:
    """Puts a model file into ``store`` and gives a ``models.lock`` that names it alone."""
    version = Version(FileSource(gguf.name), "unknown", gguf=describe(gguf))
    lock = store / f"{version.short}.lock"
    if not lock.exists():
        entry = Entry(MODEL, "unknown", (version,))
        ModelStore(store).publish(entry, version, gguf)
        lock.write_text(f"schema = {SCHEMA}\n")
        change_lock(lock, lambda empty: with_entry(empty, entry))
    return lock
