"""What the supervisor has to know of a model to run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from appliance.engine.client import EngineProcess
from appliance.engine.messages import AdapterConfig
from appliance.hardware.fit import Fit, Wanted
from appliance.models.store import StoredModel


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One version of a model. At most ``max_running`` sequences run at a time, and ``max_open`` requests run and wait.

    ``adapters`` are those that its engine is loaded with.
    ``ttl_s``: after so long without a request it is unloaded; None: never.
    """

    stored: StoredModel
    wanted: Wanted
    max_running: int
    max_open: int
    is_pinned: bool = False
    require_gpu: bool = False
    ttl_s: float | None = None
    adapters: tuple[AdapterConfig, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.stored.name}@{self.stored.record.version}"


# Starts an engine process for a model that is placed so.
Spawn = Callable[[ModelSpec, Fit], EngineProcess]
