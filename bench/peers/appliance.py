"""This appliance, started as a user would: ``appliance serve`` over a stored model."""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from appliance import __version__
from appliance.files import sha256_of
from appliance.models.beside import of_adapter
from appliance.models.lock import SCHEMA, Adapter, AdapterFile, Entry, FileSource, HubSource, Version
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
        self,
        setup: Setup,
        log: Path,
        *,
        keys: Path | None = None,
        state_dir: Path | None = None,
        adapters: Sequence[Path] = (),
        kv_disk_limit: str | None = None,
    ) -> AsyncIterator[RunningPeer]:
        """``keys``: a file of API keys, if it shall want them. ``state_dir``: where it writes its admin token.

        ``adapters``: files of adapters of the model, named as the files are. ``kv_disk_limit``: what computed prefixes
        may take on disk, if it isn't as by default.
        """
        port = free_port()
        with tempfile.TemporaryDirectory(prefix="appliance-bench-") as scratch:
            settings = {
                "APPLIANCE_STATE_DIR": str(state_dir or scratch),
                "APPLIANCE_MODELS_DIR": str(self._store),
                "APPLIANCE_MODELS_LOCK": str(publish(setup.gguf, self._store, adapters)),
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
            if kv_disk_limit is not None:
                settings["APPLIANCE_KV_DISK_LIMIT"] = kv_disk_limit
            command = [sys.executable, "-m", "appliance", "serve", "--port", str(port)]
            environment = clean_environment(**settings)
            async with run_server(
                command, port=port, health_path="/health/ready", log=log, environment=environment
            ) as process:
                yield RunningPeer(self.name, process.endpoint, process)


def publish(gguf: Path, store: Path, adapters: Sequence[Path] = ()) -> Path:
    """Puts a model file and its adapters into ``store`` and gives a ``models.lock`` that names them alone."""
    made = {path: _adapter(path) for path in adapters}
    version = Version(FileSource(gguf.name), "unknown", gguf=describe(gguf), adapters=tuple(made.values()))
    lock = store / f"{version.short}{'-adapters' if made else ''}.lock"
    if not lock.exists():
        entry = Entry(MODEL, "unknown", (version,))
        ModelStore(store).publish(entry, version, gguf)
        for path, adapter in made.items():
            ModelStore(store).publish_beside(entry, version, of_adapter(adapter), path)
        lock.write_text(f"schema = {SCHEMA}\n")
        change_lock(lock, lambda empty: with_entry(empty, entry))
    return lock


def _adapter(path: Path) -> Adapter:
    """As if it came from the hub: adapters have no other source."""
    return Adapter(
        path.stem,
        HubSource("bench/adapter", revision="0" * 40),
        gguf=AdapterFile(sha256_of(path), path.stat().st_size),
    )
