"""What loading a model would do, as the admin API and the command line show it."""

from __future__ import annotations

import msgspec

from appliance.hardware.estimate import placement
from appliance.hardware.memory_use import RAM, DeviceMemory, MemoryUse
from appliance.schemas.admin import DevicePlan, ModelPlan, RunSettings, TotalMemory
from appliance.supervisor.prospect import Prospect


def model_plan(prospect: Prospect) -> ModelPlan:
    spec, fit = prospect.spec, prospect.fit
    return ModelPlan(
        model=spec.key,
        quantization=spec.stored.record.quantization,
        fits=fit is not None,
        error=prospect.error.message if prospect.error is not None else None,
        was_loaded=prospect.was_loaded,
        evicted=list(prospect.evicted),
        run=RunSettings.model_validate(msgspec.to_builtins(fit.run)) if fit is not None else None,
        reasons=list(fit.reasons) if fit is not None else [],
        devices=_devices(prospect),
    )


def _devices(prospect: Prospect) -> list[DevicePlan]:
    layers = _layers(prospect)
    return [
        DevicePlan(
            device=now.device,
            layers=layers.get(now.device, 0),
            estimated=_total(prospect.estimated, now.device),
            measured=_total(prospect.measured, now.device),
            # Others may have taken more than is left.
            free_bytes=max(0, now.free_bytes),
            free_then_bytes=max(0, then.free_bytes),
        )
        for now, then in zip(prospect.rooms, prospect.rooms_then, strict=False)
    ]


def _layers(prospect: Prospect) -> dict[str, int]:
    """How many layers each device has, the output head counted."""
    if prospect.fit is None:
        return {}
    gpus = [room.device for room in prospect.rooms[1:]]
    places = placement(len(prospect.spec.stored.record.shape.layers), prospect.fit.run, len(gpus))
    return {RAM: places.count(None)} | {gpu: places.count(number) for number, gpu in enumerate(gpus)}


def _total(memory: MemoryUse | None, device: str) -> TotalMemory | None:
    use: DeviceMemory | None = (memory or {}).get(device)
    if use is None:
        return None
    return TotalMemory(**msgspec.structs.asdict(use), total_bytes=use.total_bytes)
