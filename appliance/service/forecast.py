"""What would happen to models that are asked for one after another: where each would lie, and which make way for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from appliance.hardware.fit import Fit, Room
from appliance.hardware.memory_use import RAM
from appliance.supervisor.budget import Booking, Budget, booked
from appliance.supervisor.planner import Planner
from appliance.supervisor.prospect import Prospect, newcomer_prospect, resident_prospect
from appliance.supervisor.spec import ModelSpec
from appliance.supervisor.switching import Resident


@dataclass(frozen=True, slots=True)
class Forecast:
    """``loaded`` are the keys of those that are in memory in the end."""

    prospects: tuple[Prospect, ...]
    loaded: tuple[str, ...]


class ImaginedBudget:
    """A machine with other RAM or other GPUs than this one."""

    def __init__(self, real: Budget, *, ram_bytes: int | None, gpu_bytes: Sequence[int] | None) -> None:
        """None: as this machine has it. No ``gpu_bytes``: no GPU."""
        self._real = real
        self._ram_bytes = ram_bytes
        self._gpus = {f"CUDA{number}": size for number, size in enumerate(gpu_bytes or ())}
        self._has_other_gpus = gpu_bytes is not None

    def rooms(self, bookings: Sequence[Booking], freed: Sequence[Booking] = ()) -> tuple[Room, ...]:
        """See :class:`appliance.supervisor.budget.Budget`."""
        ram, *gpus = self._real.rooms(bookings, freed)
        if self._ram_bytes is not None:
            ram = Room(RAM, self._ram_bytes - booked(bookings, RAM))
        if self._has_other_gpus:
            gpus = [Room(name, size - booked(bookings, name)) for name, size in self._gpus.items()]
        return (ram, *gpus)

    def lost_gpus(self) -> str | None:
        return None if self._has_other_gpus else self._real.lost_gpus()


def forecast(specs: Sequence[ModelSpec], budget: Budget, planner: Planner) -> Forecast:
    """Each of ``specs`` is asked for in turn, and has nobody waiting any more when the next one is."""
    memory = _Memory(budget, planner)
    prospects = tuple([memory.ask(spec, float(number)) for number, spec in enumerate(specs)])
    return Forecast(prospects, tuple(memory.loaded))


class _Memory:
    """What the supervisor would keep, by the same rules."""

    def __init__(self, budget: Budget, planner: Planner) -> None:
        self._budget = budget
        self._planner = planner
        self._specs: dict[str, ModelSpec] = {}
        self._used_at: dict[str, float] = {}
        self.loaded: dict[str, Fit] = {}

    def ask(self, spec: ModelSpec, now: float) -> Prospect:
        self._specs[spec.key], self._used_at[spec.key] = spec, now
        if (fit := self.loaded.get(spec.key)) is not None:
            return resident_prospect(spec, fit, self, self._planner)
        found = newcomer_prospect(spec, self._residents(), self, self._planner)
        for key in found.evicted:
            del self.loaded[key]
        if found.fit is not None:
            self.loaded[spec.key] = found.fit
        return found

    def rooms(self, freed: Sequence[str] = (), added: Sequence[Booking] = ()) -> tuple[Room, ...]:
        """See :class:`appliance.supervisor.prospect.Books`."""
        kept = [fit.memory for key, fit in self.loaded.items() if key not in freed]
        return self._budget.rooms([*(Booking(memory, pid=None, is_settled=False) for memory in kept), *added])

    def fit(self, spec: ModelSpec, freed: Sequence[str]) -> Fit:
        """See :class:`appliance.supervisor.prospect.Books`."""
        return self._planner.fit(spec, self.rooms(freed))

    def _residents(self) -> list[Resident]:
        return [
            Resident(key, self._used_at[key], n_users=0, is_pinned=self._specs[key].is_pinned, is_settled=True)
            for key in self.loaded
        ]
