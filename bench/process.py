"""Processes of the benchmark: servers that are started and stopped, and probes that print what they measured."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.client import Endpoint, send
from bench.errors import BenchError

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 120.0
STOP_GRACE_S = 10.0
_POLL_S = 0.1


def clean_environment(**settings: str) -> dict[str, str]:
    """This process's environment without the user's settings of the appliance, and with ``settings``."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("APPLIANCE_")}
    return {**inherited, **settings}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class ServerProcess:
    """A server that runs; what it and its children use can be read."""

    def __init__(self, pid: int, endpoint: Endpoint) -> None:
        self.pid = pid
        self.endpoint = endpoint

    def processes(self) -> list[psutil.Process]:
        """The server and its children, the server first."""
        server = psutil.Process(self.pid)
        return [server, *server.children(recursive=True)]

    def cpu_s(self) -> float:
        """Processor time that all of them have used, in seconds."""
        return sum(times.user + times.system for times in (process.cpu_times() for process in self.processes()))


@contextlib.asynccontextmanager
async def run_server(
    command: Sequence[str | Path],
    *,
    port: int,
    health_path: str,
    log: Path,
    environment: dict[str, str] | None = None,
    key: str | None = None,
    start_timeout_s: float = START_TIMEOUT_S,
) -> AsyncIterator[ServerProcess]:
    """Starts a server, waits until ``health_path`` answers 200, and stops it at the end.

    Raises:
        BenchError: it ended, or was not healthy in time; with the last lines of its log.
    """
    endpoint = Endpoint(f"http://127.0.0.1:{port}", key=key)
    with log.open("wb") as out:
        # A session of its own: Ctrl-C reaches us only, and we stop the servers in order.
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env=environment or clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        await _wait_until_healthy(process, endpoint, health_path, log, start_timeout_s)
        yield ServerProcess(process.pid, endpoint)
    finally:
        stop(process)


async def _wait_until_healthy(
    process: subprocess.Popen[bytes], endpoint: Endpoint, path: str, log: Path, timeout_s: float
) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            while not await _is_healthy(endpoint, path):
                if process.poll() is not None:
                    raise BenchError(f"{process.args} ended with status {process.returncode}:\n{_tail(log)}")  # type: ignore[str-bytes-safe]
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise BenchError(f"a server was not ready within {timeout_s:.0f} s:\n{_tail(log)}") from None


async def _is_healthy(endpoint: Endpoint, path: str) -> bool:
    try:
        exchange = await send(endpoint, "GET", path)
    except OSError:
        return False
    status, _ = await exchange.body(START_TIMEOUT_S)
    return status == 200


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process: by asking first, then for good. Its children end with it."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def run_probe(module: str, *arguments: object, log: Path) -> Any:
    """Runs ``python -m MODULE ARGUMENTS`` and gives the JSON that it prints.

    Raises:
        BenchError: it failed; with the last lines of what it said.
    """
    command = [sys.executable, "-m", module, *(str(argument) for argument in arguments)]
    return json.loads(await run_tool(command, log=log))


async def run_tool(command: Sequence[str | Path], *, log: Path) -> str:
    """What a program prints; its errors go to ``log``. Raises BenchError if it fails."""
    words = [str(word) for word in command]
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *words,
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode != 0:
        raise BenchError(f"{' '.join(words)} ended with status {process.returncode}:\n{_tail(log)}")
    return output.decode()


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-15:]
    return "\n".join(f"  {line}" for line in lines)
