"""All that is known of the server at a moment. Widgets are functions of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from appliance.schemas.admin import ModelList, RequestList, Status
from appliance.schemas.admin import Snapshot as HistorySnapshot
from appliance.schemas.cache import CacheContents
from appliance.schemas.hardware import MachineStatus


class Part(Enum):
    """What a section may need; the status comes in any case."""

    MODELS = "models"
    REQUESTS = "requests"
    HISTORY = "history"
    HARDWARE = "hardware"
    CACHE = "cache"


@dataclass(frozen=True, slots=True)
class Connection:
    """``problem`` None: the server answers. ``retry_in_s``: when it is tried again; None: not by itself."""

    url: str
    is_first: bool = True
    problem: str | None = None
    retry_in_s: float | None = None

    @property
    def is_good(self) -> bool:
        return self.problem is None and not self.is_first


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What isn't needed, or hasn't come yet, is None. ``cache_problem`` says why there is no ``cache``."""

    connection: Connection
    status: Status | None = None
    models: ModelList | None = None
    requests: RequestList | None = None
    history: tuple[HistorySnapshot, ...] = ()
    hardware: MachineStatus | None = None
    cache: CacheContents | None = None
    cache_problem: str | None = None
