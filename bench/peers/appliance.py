"""This appliance, started as a user would: ``appliance serve`` over a stored model."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from appliance import __version__
from appliance.models.gguf_header import read_header
from appliance.models.lock import SCHEMA, Entry, PyPISource, Version
from appliance.models.store import ModelStore
from bench.peers.base import APPLIANCE, RunningPeer, Setup
from bench.process import clean_environment, free_port, run_server

MODEL = "bench"
_NO_HASH = "0" * 64


class Appliance:
    name = APPLIANCE

    def __init__(self, store: Path) -> None:
        """``store``: a folder for the models that are measured; they are published to it when first served."""
        self._store = store

    def describe(self) -> str:
        return (
            f"{__version__} with llama-cpp-python {importlib.metadata.version('llama-cpp-python')}; "
            "n_threads=THREADS n_ctx=CONTEXT max_running=SLOTS"
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
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    lock = store / f"{digest[:12]}.lock"
    if lock.exists():
        return lock
    template = read_header(gguf).chat_template or ""
    version = Version(
        gguf_sha256=digest,
        gguf_bytes=gguf.stat().st_size,
        quantization="",
        chat_template_sha256=hashlib.sha256(template.encode()).hexdigest(),
        source=PyPISource(package=MODEL, version="0", wheel_sha256=_NO_HASH, member="model.gguf"),
    )
    with gguf.open("rb") as file:
        ModelStore(store).publish(Entry(name=MODEL, license="", versions=(version,)), version, file)
    lock.write_text(_lock_text(version))
    return lock


def _lock_text(version: Version) -> str:
    return f"""schema = {SCHEMA}
[[models]]
name = "{MODEL}"
license = ""
[[models.versions]]
gguf_sha256 = "{version.gguf_sha256}"
gguf_bytes = {version.gguf_bytes}
quantization = ""
chat_template_sha256 = "{version.chat_template_sha256}"
[models.versions.source]
kind = "pypi"
package = "{MODEL}"
version = "0"
wheel_sha256 = "{_NO_HASH}"
member = "{version.source.member}"
"""
