"""Nothing of SQLite runs on the event loop's thread, and a start imports only what it needs."""

from __future__ import annotations

import functools
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from appliance.cache.administration import Selection
from tests.cache.answers import put, stored, written
from tests.response_cache import FILE, open_cache
from tests.server import ROOT


async def test_the_event_loop_does_nothing_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[str] = set()

    class Noting(sqlite3.Connection):
        def execute(self, *given: Any) -> sqlite3.Cursor:
            threads.add(threading.current_thread().name)
            return super().execute(*given)

        def executemany(self, *given: Any) -> sqlite3.Cursor:
            threads.add(threading.current_thread().name)
            return super().executemany(*given)

        def close(self) -> None:
            threads.add(threading.current_thread().name)
            super().close()

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Noting))
    async with open_cache(tmp_path, ttl_s=100.0, max_bytes=1 << 20) as cache:
        put(cache, range(500), n_bytes=8000)
        await written(cache)
        await stored(cache, range(500), n_bytes=8000)
        (tmp_path / FILE).write_bytes(b"no database" * 1000)
        await stored(cache, range(500), n_bytes=8000)
        await cache.purge(Selection())
        await cache.vacuum()
        put(cache, [1])
    assert threads == {"response-cache-writer", "response-cache-reader"}


@pytest.mark.parametrize("is_there", [False, True])
async def test_what_makes_tables_is_imported_only_where_there_are_none(tmp_path: Path, is_there: bool) -> None:
    if is_there:
        async with open_cache(tmp_path) as cache:
            put(cache, [1])
    program = """
import asyncio, pathlib, sys
from tests.response_cache import open_cache
from tests.cache.answers import stored

async def start():
    async with open_cache(pathlib.Path(sys.argv[1])) as cache:
        print(await stored(cache, [1]), "sqlite_utils" in sys.modules)

asyncio.run(start())
"""
    said = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert said.stdout.strip() == ("[1] False" if is_there else "[] True")
