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

    ``adapters`` are those that its engine is loaded with, ``draft`` the model that guesses for it, if there is one.
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
    draft: StoredModel | None = None

    @property
    def key(self) -> str:
        return f"{self.stored.name}@{self.stored.record.version}"

    @property
    def weights_sha256(self) -> str:
        """Tells which files are in memory: the model's, and its draft model's."""
        sha256 = self.stored.record.gguf_sha256
        return sha256 if self.draft is None else f"{sha256}+{self.draft.record.gguf_sha256}"


# Starts an engine process for a model that is placed so.
Spawn = Callable[[ModelSpec, Fit], EngineProcess]
