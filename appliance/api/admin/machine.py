"""``/admin/hardware`` and ``/admin/doctor``: what the machine has, and whether all is well."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter

from appliance.api.state import State
from appliance.schemas.doctor import Diagnosis, diagnosis
from appliance.schemas.hardware import MachineStatus
from appliance.service.doctor.examine import examine
from appliance.service.machine import machine_status

router = APIRouter(prefix="/admin")


@router.get("/hardware")
async def hardware(state: State) -> MachineStatus:
    """Processor, RAM, disks and GPUs, and how busy they are."""
    return machine_status(await asyncio.to_thread(state.machine.read))


@router.get("/doctor")
async def doctor(state: State, speed: bool = False) -> Diagnosis:
    """What `appliance doctor` finds, seen from the server; with `speed`, the default model is measured, too."""
    return diagnosis(await asyncio.to_thread(examine, state.config, serving=True, speed=speed))
