"""What would become of a model that is asked for now: decided by the rules that load it, and not done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from appliance.errors import ApplianceError, DoesNotFit
from appliance.hardware.fit import Fit, Room
from appliance.hardware.memory_use import MemoryUse
from appliance.supervisor.budget import Booking
from appliance.supervisor.planner import Planner
from appliance.supervisor.spec import ModelSpec
from appliance.supervisor.switching import Newcomer, Resident, find_room


class Books(Protocol):
    """Who has what memory: the supervisor's ledger, or an imagined one."""

    def rooms(self, freed: Sequence[str] = (), added: Sequence[Booking] = ()) -> tuple[Room, ...]:
        """What is left beside all models but those with the keys ``freed``, and beside what is ``added``."""

    def fit(self, spec: ModelSpec, freed: Sequence[str]) -> Fit:
        """Where a model would lie if these had made way. Raises DoesNotFit."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """Either ``fit`` says how the model is run, or ``error`` why it isn't.

    ``rooms`` is what is left now, ``rooms_then`` what is left with it loaded. ``evicted`` are the keys of those that
    make way. ``was_loaded``: it has its memory already. ``estimated`` and ``measured`` say what it takes; the latter is
    None if it was never loaded so.
    """

    spec: ModelSpec
    rooms: tuple[Room, ...]
    rooms_then: tuple[Room, ...]
    fit: Fit | None = None
    error: ApplianceError | None = None
    evicted: tuple[str, ...] = ()
    was_loaded: bool = False
    estimated: MemoryUse | None = None
    measured: MemoryUse | None = None


def newcomer_prospect(spec: ModelSpec, residents: Sequence[Resident], books: Books, planner: Planner) -> Prospect:
    """That of a model that has no memory yet; ``residents`` are the others that do.

    It is asked for as by an operator: who would have to wait first for others' requests gets the same in the end.
    """
    rooms = books.rooms()
    newcomer = Newcomer(spec.key, since=0.0, is_urgent=True)
    try:
        fit, victims = find_room(newcomer, residents, lambda key, freed: books.fit(spec, freed))
    except DoesNotFit as error:
        return Prospect(spec, rooms, rooms, error=error)
    evicted = tuple(victim.key for victim in victims)
    rooms_then = books.rooms((*evicted, spec.key), [Booking(fit.memory, pid=None, is_settled=False)])
    estimated, measured = planner.sides(spec, fit, _gpus(rooms))
    return Prospect(spec, rooms, rooms_then, fit, evicted=evicted, estimated=estimated, measured=measured)


def resident_prospect(spec: ModelSpec, fit: Fit, books: Books, planner: Planner) -> Prospect:
    """That of a model that has its memory already, as ``fit`` says."""
    rooms = books.rooms()
    estimated, measured = planner.sides(spec, fit, _gpus(rooms))
    return Prospect(spec, rooms, rooms, fit, was_loaded=True, estimated=estimated, measured=measured)


def _gpus(rooms: Sequence[Room]) -> tuple[str, ...]:
    return tuple(room.device for room in rooms[1:])
