"""Computed prefixes on disk: where they are, how many, what they saved, and removing them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from appliance.engine import kv_folder
from appliance.engine.messages import Load
from appliance.hardware.memory_use import parse_bytes
from appliance.schemas.kv_disk import KVDiskStatus, KVFilesPurged
from appliance.settings import Settings


def folder(config: Settings) -> Path:
    return config.kv_disk_dir or config.state_dir / "kv"


def limit_bytes(config: Settings) -> int:
    """0: nothing is kept on disk. Raises ConfigError if the setting is no size."""
    if config.kv_disk_limit.strip() == "0":
        return 0
    n_bytes = parse_bytes(config.kv_disk_limit, "kv_disk_limit")
    return n_bytes if config.prefix_reuse else 0


async def status(config: Settings, loads: Iterable[Load]) -> KVDiskStatus:
    place = folder(config)
    used = await asyncio.to_thread(kv_folder.usage, place)
    counts = [load.warm_tier for load in loads if load.warm_tier is not None]
    return KVDiskStatus(
        folder=str(place),
        files=used.n_files,
        used_bytes=used.n_bytes,
        limit_bytes=limit_bytes(config),
        saved=sum(one.n_saved for one in counts),
        unsaved=sum(one.n_unsaved for one in counts),
        restored=sum(one.n_restored for one in counts),
        restored_tokens=sum(one.n_tokens_restored for one in counts),
        rejected=dict(sum((Counter(one.rejected) for one in counts), Counter())),
    )


async def purge(config: Settings) -> KVFilesPurged:
    removed = await asyncio.to_thread(kv_folder.purge, folder(config))
    return KVFilesPurged(files=removed.n_files, used_bytes=removed.n_bytes)
