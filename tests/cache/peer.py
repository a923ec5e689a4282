"""A process with a response cache of its own: ``python -m tests.cache.peer FILE``; each line it reads says what to do.

A line and its answer are JSON. ``Peer`` is the test's end.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures.thread  # noqa: F401 - which another user may not be able to load later
import contextlib
import json
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlite_utils  # noqa: F401 (another user may not be able to import it)

from appliance.cache.administration import Selection
from appliance.cache.store import ResponseCache
from tests.cache.answers import put, stored, written
from tests.server import ROOT

N_BYTES = 4000


class Peer:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, do: str, *given: Any) -> Any:
        self.tell(do, *given)
        return self.answer()

    def tell(self, do: str, *given: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([do, *given]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the peer has ended"
        return json.loads(line)


@contextlib.contextmanager
def running_peer(
    path: Path,
    *,
    within: Sequence[str] = (),
    max_bytes: int = 64 << 20,
    retry_s: float = 0.1,
    user: int | None = None,
) -> Iterator[Peer]:
    """Ended with the block. ``within``: the command that runs it; ``user``: who it becomes, of all rights bereft."""
    options = [f"--max-bytes={max_bytes}", f"--retry-s={retry_s}"]
    options += [] if user is None else [f"--user={user}"]
    process = subprocess.Popen(
        [*within, sys.executable, "-m", "tests.cache.peer", str(path), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        peer = Peer(process)
        try:
            assert peer.answer() == "ready"
            yield peer
        finally:
            process.kill()


async def obey(cache: ResponseCache, do: str, given: list[Any]) -> Any:
    match do:
        case "put":  # a range of numbers; whether they could be written
            put(cache, range(*given), n_bytes=N_BYTES)
            return await obey(cache, "look", [])
        case "stored":
            return await stored(cache, range(*given), n_bytes=N_BYTES)
        case "fill":  # goes on until it is killed, and tells what is written for certain
            n = given[0]
            while True:
                put(cache, range(n, n + 10), n_bytes=N_BYTES)
                await written(cache)
                n += 10
                say(n)
                if n // 10 % 20 == 0:
                    await cache.vacuum()
        case "look":  # whether it can be written
            with contextlib.suppress(sqlite3.Error):
                await written(cache)
            return cache.problem is None
        case "purge":
            return await cache.purge(Selection())
        case "status":
            return {
                "problem": cache.problem,
                "used_bytes": cache.used_bytes,
                "n_unkept": cache.n_unkept,
                "n_unread": cache.n_unread,
            }
        case "leave no room":
            with ballast(cache.path).open("wb") as file, contextlib.suppress(OSError):
                while True:
                    os.write(file.fileno(), b"x" * 4096)
            return True
        case "make room":
            ballast(cache.path).unlink(missing_ok=True)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            return True
        case "limit files":
            resource.setrlimit(resource.RLIMIT_FSIZE, (given[0], resource.RLIM_INFINITY))
            return True
        case _:
            raise AssertionError(do)


def say(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def ballast(path: Path) -> Path:
    return path.with_name("ballast")


async def serve(cache: ResponseCache) -> None:
    cache.start()
    say("ready")
    while line := await asyncio.to_thread(sys.stdin.readline):
        do, *given = json.loads(line)
        if do == "stop":
            break
        say(await obey(cache, do, given))
    await cache.stop()
    say("stopped")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--max-bytes", type=int)
    parser.add_argument("--retry-s", type=float)
    parser.add_argument("--user", type=int)
    arguments = parser.parse_args()
    if arguments.user is not None and os.getuid() == 0:
        os.setgroups([])
        os.setgid(arguments.user)
        os.setuid(arguments.user)
    cache = ResponseCache(arguments.path, max_bytes=arguments.max_bytes, retry_s=arguments.retry_s)
    asyncio.run(serve(cache))


if __name__ == "__main__":
    main()
