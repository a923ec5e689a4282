"""A real server: ``appliance serve`` as a process of its own, with the real model."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

ROOT = Path(__file__).parents[1]
APPLIANCE = [sys.executable, "-m", "appliance"]


@dataclass(frozen=True)
class RunningServer:
    url: str
    process: subprocess.Popen[str]
    state_dir: Path
    greeting: str

    @property
    def engine(self) -> psutil.Process:
        """Its engine process."""
        (child,) = psutil.Process(self.process.pid).children()
        return child


def environment(state_dir: Path, **settings: str) -> dict[str, str]:
    """One compute thread: tests must not fight over cores. No response cache: what is asked twice is computed twice."""
    return {
        **os.environ,
        "APPLIANCE_STATE_DIR": str(state_dir),
        "APPLIANCE_N_THREADS": "1",
        "APPLIANCE_RESPONSE_CACHE": "false",
        **settings,
    }


@contextlib.contextmanager
def start_server(*options: str, stderr: IO[str] | None = None, **settings: str) -> Iterator[RunningServer]:
    """A server on a free port that is ready; it is stopped at the end unless it has ended by itself."""
    with tempfile.TemporaryDirectory(prefix="appliance-state-") as scratch:
        process = subprocess.Popen(
            [*APPLIANCE, "serve", "--port", "0", *options],
            cwd=ROOT,
            env=environment(Path(scratch), **settings),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        try:
            assert process.stdout is not None
            greeting = process.stdout.readline()
            url = re.search(r"https?://127\.0\.0\.1:\d+", greeting)
            assert url, f"the server did not get ready: {greeting!r}"
            yield RunningServer(url.group(), process, Path(scratch), greeting)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(30)
            assert process.stdout is not None
            process.stdout.close()
