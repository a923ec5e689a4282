"""``/admin/kv-disk``: what is kept on disk of computed prompts, and removing it."""

from __future__ import annotations

from fastapi import APIRouter

from appliance.api.state import State
from appliance.schemas.kv_disk import KVDiskStatus, KVFilesPurged
from appliance.service import kv_disk

router = APIRouter(prefix="/admin/kv-disk")


@router.get("")
async def contents(state: State) -> KVDiskStatus:
    """How much there is, and what it saved since the engines were loaded."""
    return await kv_disk.status(state.config, state.supervisor.loads().values())


@router.post("/purge")
async def purge(state: State) -> KVFilesPurged:
    """Removes the files of all models. Engines go on with what they have in memory."""
    return await kv_disk.purge(state.config)
