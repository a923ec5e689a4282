"""Which model is loaded next, and which ones make way for it. Plain data in and out: no clock, no process.

A newcomer that fits is loaded at once. Otherwise the models that were used longest ago make way, as few as will do.
Two rules keep models that don't fit together from throwing each other out all the time. A model that is working is
left alone until somebody has waited for another for ``max_wait_s``; those who wait for the same model are served
together then. And an idle one makes way at once only while there was little switching lately.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from appliance.errors import ApplianceError, DoesNotFit
from appliance.hardware.fit import Fit

# Switches that may come right after one another, and how often one more is granted, in units of the longest wait.
FREE_SWITCHES = 3
REFILL_WAITS = 2.0

# Where a model would be placed if those that are named had made way. Raises DoesNotFit.
Place = Callable[[str, Sequence[str]], Fit]


@dataclass(frozen=True, slots=True)
class Resident:
    """A model that takes memory. ``is_settled``: it is loaded and isn't making way already."""

    key: str
    last_used_at: float
    n_users: int
    is_pinned: bool
    is_settled: bool


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A model that is asked for. ``since`` is when the one who waits longest came; None: it may not displace others.

    ``is_urgent``: an operator wants it now.
    """

    key: str
    since: float | None
    is_urgent: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    key: str
    fit: Fit


@dataclass(frozen=True, slots=True)
class MakeRoom:
    """``victims`` finish what they are doing, and are unloaded; then the model lies as ``fit`` says."""

    key: str
    fit: Fit
    victims: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    key: str
    error: ApplianceError


Decision = Load | MakeRoom | Refuse


class Allowance:
    """How many switches may still come at once: a few, and then one now and again."""

    def __init__(self, max_wait_s: float) -> None:
        self._refill_s = max(max_wait_s * REFILL_WAITS, 1e-9)
        self._n_left = float(FREE_SWITCHES)
        self._at = 0.0

    def next_at(self, now: float) -> float:
        """When there is one again; ``now`` if there is."""
        return now + max(0.0, 1.0 - self._level(now)) * self._refill_s

    def spend(self, now: float) -> None:
        """A switch was made; one that had to be although there was none left makes no debts."""
        self._n_left, self._at = max(0.0, self._level(now) - 1.0), now

    def _level(self, now: float) -> float:
        return min(float(FREE_SWITCHES), self._n_left + (now - self._at) / self._refill_s)


class Switching:
    """Decides what to do for the models that are asked for."""

    def __init__(self, *, max_wait_s: float) -> None:
        """``max_wait_s``: how long a request may wait for others that use the memory its model needs."""
        self._max_wait_s = max_wait_s
        self._allowance = Allowance(max_wait_s)

    def decide(
        self, now: float, newcomers: Sequence[Newcomer], residents: Sequence[Resident], place: Place
    ) -> tuple[list[Decision], float | None]:
        """What to do now, and when to look again if nothing happens before; None: only then.

        At most one of the decisions makes room, and none while a model loads or makes way: room is made for one
        newcomer at a time, and who it was made for gets it.
        """
        decisions: list[Decision] = []
        look_again: list[float] = []
        may_make_room = all(resident.is_settled for resident in residents)
        for newcomer in sorted(newcomers, key=_order):
            try:
                fit, victims = find_room(newcomer, residents, place)
            except DoesNotFit as error:
                if newcomer.since is not None:
                    decisions.append(Refuse(newcomer.key, error))
                continue
            if not victims:
                # What follows is decided again once this one's memory is counted.
                return [*decisions, Load(newcomer.key, fit)], now
            if newcomer.since is None or not may_make_room:
                continue
            deadline = newcomer.since + self._max_wait_s
            # A model that works wakes us when it has ended.
            is_idle = all(victim.n_users == 0 for victim in victims)
            may_go_at = min(deadline, self._allowance.next_at(now)) if is_idle else deadline
            if newcomer.is_urgent or now >= may_go_at:
                self._allowance.spend(now)
                keys = tuple(victim.key for victim in victims)
                reason = "asked_for_by_operator" if newcomer.is_urgent else "room_for_waiting_requests"
                decisions.append(MakeRoom(newcomer.key, fit, keys, reason))
                may_make_room = False
            else:
                look_again.append(may_go_at)
        return decisions, min(look_again, default=None)


def find_room(newcomer: Newcomer, residents: Sequence[Resident], place: Place) -> tuple[Fit, list[Resident]]:
    """Where it would lie, and who must make way for that: as few as will do for it to lie as if all had gone.

    Raises:
        DoesNotFit: not even then; for a newcomer that may not displace others, not beside them.
    """
    victims = sorted((r for r in residents if not r.is_pinned), key=lambda r: r.last_used_at)
    if newcomer.since is None:
        victims = []
    best = place(newcomer.key, [victim.key for victim in victims])
    # Spares those that were used last first, and then any whose memory doesn't help.
    for spared in reversed(victims):
        fewer = [victim for victim in victims if victim is not spared]
        try:
            fit = place(newcomer.key, [victim.key for victim in fewer])
        except DoesNotFit:
            continue
        if fit.run == best.run:
            victims, best = fewer, fit
    return best, victims


def _order(newcomer: Newcomer) -> tuple[bool, float]:
    return not newcomer.is_urgent, inf if newcomer.since is None else newcomer.since
