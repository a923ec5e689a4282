"""The machine as the admin API and the command line show it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from appliance.hardware.machine import Machine
from appliance.schemas.hardware import MachineStatus
from appliance.settings import Settings


def machine_status(machine: Machine) -> MachineStatus:
    return MachineStatus.model_validate(msgspec.to_builtins(machine))


def folders(config: Settings) -> dict[str, Path | None]:
    """The folders whose disks matter, by the names of their settings."""
    return {name: getattr(config, name) for name in ("models_dir", "image_models_dir", "state_dir")}
