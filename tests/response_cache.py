"""A response cache on disk, open for as long as a block."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from appliance.cache.store import ResponseCache

FILE = "responses.db"


@contextlib.asynccontextmanager
async def open_cache(
    folder: Path,
    *,
    max_bytes: int = 64 << 20,
    ttl_s: float | None = None,
    retry_s: float = 30.0,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[ResponseCache]:
    """Its file is ``folder / FILE``."""
    cache = ResponseCache(folder / FILE, max_bytes=max_bytes, ttl_s=ttl_s, retry_s=retry_s, clock=clock)
    cache.start()
    try:
        yield cache
    finally:
        await cache.stop()
