"""The memory that there is, against what the default model takes."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.engine.devices import LlamaBuild
from appliance.errors import ApplianceError, DoesNotFit
from appliance.hardware.fit import Fit, Room, fit
from appliance.hardware.memory_use import RAM, format_bytes, parse_bytes
from appliance.hardware.ram import Ram
from appliance.models.store import StoredModel
from appliance.schemas.doctor import Finding
from appliance.service.doctor.subject import Subject
from appliance.service.model_spec import model_spec
from appliance.settings import ModelSettings


def check_memory(subject: Subject) -> Iterator[Finding]:
    if isinstance(subject.machine, ApplianceError):
        return
    ram = subject.machine.ram
    limit = f"{format_bytes(_limit(subject, ram))} of RAM may be used"
    if ram.cgroup_limit_bytes is not None and ram.cgroup_limit_bytes < ram.total_bytes:
        limit += f" (a cgroup's limit; the machine has {format_bytes(ram.total_bytes)})"
    model = subject.default_model
    if model is None:
        yield Finding(name="memory", status="ok", message=f"{limit}, {format_bytes(ram.room_bytes)} are free")
        return
    try:
        fitted = fitted_by_limits(subject, model)
    except DoesNotFit as error:
        remedy = "raise the limit (the container's, or ram_limit), or choose a smaller model"
        yield Finding(name="memory", status="failed", message=f"{limit}: {error.message}", remedy=remedy)
        return
    wants = ", ".join(f"{format_bytes(use.total_bytes)} of {device}" for device, use in fitted.memory.items())
    message = f"{model.name} takes about {wants}; {limit}, {format_bytes(ram.room_bytes)} are free"
    is_short = fitted.memory[RAM].total_bytes > ram.room_bytes and not subject.is_running
    yield Finding(
        name="memory",
        status="warning" if is_short else "ok",
        message=message,
        remedy="other programs have the rest: end some of them before the appliance starts" if is_short else None,
    )


def fitted_by_limits(subject: Subject, model: StoredModel) -> Fit:
    """How a model would be run if nothing else ran here. Raises DoesNotFit."""
    rooms = [Room(RAM, 0)]
    if not isinstance(subject.machine, ApplianceError):
        rooms = [Room(RAM, _limit(subject, subject.machine.ram))]
    if isinstance(subject.build, LlamaBuild):
        rooms += [Room(gpu.name, gpu.total_bytes, gpu.kind == "igpu") for gpu in subject.build.gpus]
    own = subject.config.models.get(model.name, ModelSettings())
    draft = subject.draft if isinstance(subject.draft, StoredModel) and model == subject.default else None
    return fit(model.record.shape, model_spec(subject.config, own, model, draft).wanted, tuple(rooms))


def _limit(subject: Subject, ram: Ram) -> int:
    own = subject.config.ram_limit
    return min(ram.limit_bytes, parse_bytes(own, "ram_limit")) if own is not None else ram.limit_bytes
