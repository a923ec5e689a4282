"""What would happen to models that are asked for one after another: where each would lie, and which make way for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from appliance.errors import ApplianceError
from appliance.hardware.fit import Fit, Room
from appliance.hardware.memory_use import RAM
from appliance.supervisor.budget import Booking, Budget, booked
from appliance.supervisor.planner import Planner
from appliance.supervisor.spec import ModelSpec
from appliance.supervisor.switching import MakeRoom, Newcomer, Refuse, Resident, Switching


@dataclass(frozen=True, slots=True)
class Step:
    """A model that was asked for. Either ``fit`` says how it is run, or ``refusal`` why it isn't.

    ``evicted`` are the keys of those that made way, ``was_loaded``: it was in memory already.
    """

    spec: ModelSpec
    fit: Fit | None
    refusal: str | None = None
    evicted: tuple[str, ...] = ()
    was_loaded: bool = False


@dataclass(frozen=True, slots=True)
class Forecast:
    """``loaded`` are the keys of those that are in memory in the end, ``rooms`` what is left beside them."""

    steps: tuple[Step, ...]
    loaded: tuple[str, ...]
    rooms: tuple[Room, ...]


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
    steps = tuple(memory.ask(spec, float(number)) for number, spec in enumerate(specs))
    return Forecast(steps, tuple(memory.loaded), budget.rooms(memory.bookings(())))


class _Memory:
    """What the supervisor would keep, by the same rules."""

    def __init__(self, budget: Budget, planner: Planner) -> None:
        self._budget = budget
        self._planner = planner
        self._switching = Switching(max_wait_s=0.0)
        self._specs: dict[str, ModelSpec] = {}
        self._used_at: dict[str, float] = {}
        self.loaded: dict[str, Fit] = {}

    def ask(self, spec: ModelSpec, now: float) -> Step:
        self._specs[spec.key] = spec
        if spec.key in self.loaded:
            self._used_at[spec.key] = now
            return Step(spec, self.loaded[spec.key], was_loaded=True)
        evicted: tuple[str, ...] = ()
        for decision in self._decide(spec.key, now):
            if isinstance(decision, Refuse):
                return Step(spec, None, decision.error.message)
            if isinstance(decision, MakeRoom):
                evicted = decision.victims
        for key in evicted:
            del self.loaded[key]
        try:
            fit = self._place(spec.key, ())
        except ApplianceError as error:
            return Step(spec, None, error.message, evicted)
        self.loaded[spec.key], self._used_at[spec.key] = fit, now
        return Step(spec, fit, evicted=evicted)

    def bookings(self, freed: Sequence[str]) -> list[Booking]:
        return [Booking(fit.memory, pid=None, is_settled=False) for key, fit in self.loaded.items() if key not in freed]

    def _decide(self, key: str, now: float) -> Sequence[object]:
        residents = [
            Resident(other, self._used_at[other], 0, self._specs[other].is_pinned, is_settled=True)
            for other in self.loaded
        ]
        newcomer = Newcomer(key, since=now, is_urgent=True)
        return self._switching.decide(now, [newcomer], residents, self._place)[0]

    def _place(self, key: str, freed: Sequence[str]) -> Fit:
        return self._planner.fit(self._specs[key], self._budget.rooms(self.bookings(freed)))
