"""Who comes next: priority class, then a fair share for each API key, then arrival.

Fairness is that of a virtual token counter (Sheng et al., "Fairness in Serving Large Language Models", 2024): each
key's computed tokens are counted, divided by its weight, and the key with the least is served next. That is deficit
round robin for work whose length is known only when it is done. A key that had nothing to wait for, whether it was idle
or only went on with answers, starts at the level of those that wait, so that it can't save up.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Ordered(Protocol):
    """What is computed in some order: a sequence, or a request whose texts are embedded.

    ``n_pending`` tokens are known and not computed yet.
    """

    key: str
    weight: float
    is_batch: bool

    @property
    def n_pending(self) -> int: ...


T = TypeVar("T", bound=Ordered)

# A sequence of the batch class that has waited for so many steps counts as interactive from then on.
AGEING_STEPS = 2000


@dataclass(slots=True, eq=False)
class Tenant(Generic[T]):
    """An API key with open sequences. ``served`` is in tokens divided by weight."""

    weight: float
    served: float = 0.0
    # By class: interactive, batch. The first comes first.
    waiting: tuple[deque[T], deque[T]] = field(default_factory=lambda: (deque(), deque()))
    running: list[T] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        return bool(self.running or self.waiting[0] or self.waiting[1])

    @property
    def is_competing(self) -> bool:
        """Whether it is the order that decides when its sequences are served."""
        return bool(self.waiting[0] or self.waiting[1] or any(one.n_pending > 1 for one in self.running))


class FairOrder(Generic[T]):
    """Sequences that wait and run, by the key that they belong to."""

    def __init__(self, *, max_running: int) -> None:
        self._max_running = max_running
        self._tenants: dict[str, Tenant[T]] = {}
        self._arrivals: dict[T, int] = {}  # a sequence's place in the order of all
        self._waiting_since: dict[T, int] = {}  # in steps
        self._aged: set[T] = set()
        self._n_steps = 0
        # How far the key had been served whose sequence was the last to start.
        self._level = 0.0
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._arrivals)

    def add(self, sequence: T) -> None:
        """A new sequence waits."""
        tenant = self._tenants.setdefault(sequence.key, Tenant(sequence.weight))
        if not tenant.is_competing:
            competing = (other.served for other in self._tenants.values() if other.is_competing)
            tenant.served = max(tenant.served, min(competing, default=self._level))
        tenant.weight = sequence.weight  # the key's weight may have been changed
        tenant.waiting[sequence.is_batch].append(sequence)
        self._arrivals[sequence] = next(self._numbers)
        self._waiting_since[sequence] = self._n_steps

    def start(self, sequence: T) -> None:
        """A waiting sequence runs. It keeps the class that it has come to."""
        if sequence.is_batch and self._rank(sequence) == 0:
            self._aged.add(sequence)
        del self._waiting_since[sequence]
        tenant = self._tenants[sequence.key]
        self._level = tenant.served
        tenant.waiting[sequence.is_batch].remove(sequence)
        tenant.running.append(sequence)

    def put_back(self, sequence: T) -> None:
        """A running sequence waits again, before all others of its key and class."""
        tenant = self._tenants[sequence.key]
        tenant.running.remove(sequence)
        tenant.waiting[sequence.is_batch].appendleft(sequence)
        self._waiting_since[sequence] = self._n_steps

    def remove(self, sequence: T) -> None:
        """A sequence has ended, whether it ran or waited."""
        tenant = self._tenants[sequence.key]
        (tenant.running if sequence in tenant.running else tenant.waiting[sequence.is_batch]).remove(sequence)
        del self._arrivals[sequence]
        self._waiting_since.pop(sequence, None)
        self._aged.discard(sequence)
        if not self._arrivals:
            self._tenants.clear()
            self._level = 0.0

    def charge(self, sequence: T, n_tokens: int) -> None:
        """``n_tokens`` have been computed for a sequence."""
        tenant = self._tenants[sequence.key]
        tenant.served += n_tokens / tenant.weight

    def step(self) -> None:
        """A step has been computed: what waits has aged."""
        self._n_steps += 1

    def next_waiting(self, passed_over: Collection[T], closed_keys: Collection[str]) -> T | None:
        """The sequence to start next; None if all that wait are ``passed_over`` or of the ``closed_keys``."""
        heads = [
            sequence
            for key, tenant in self._tenants.items()
            if key not in closed_keys
            for queue in tenant.waiting
            if (sequence := next((s for s in queue if s not in passed_over), None)) is not None
        ]
        return min(heads, key=self._urgency, default=None)

    def by_urgency(self, running: Collection[T]) -> list[T]:
        """``running`` in the order in which their prompts are to be computed."""
        return sorted(running, key=lambda s: (self._rank(s), self._tenants[s.key].served))

    def first_to_go(self, used: dict[str, float]) -> T:
        """Which running sequence is to go when there is no room for all; at least one must be running.

        One of the lowest class that runs: the youngest of the key that uses most for its share, if that has others,
        too; else the youngest.
        """
        running = [s for tenant in self._tenants.values() for s in tenant.running]
        lowest = max(map(self._rank, running))
        last = [s for s in running if self._rank(s) == lowest]
        with_others = [s for s in last if len(self._tenants[s.key].running) > 1]
        return max(with_others or last, key=lambda s: (used[s.key] / self._share(s.key), self._youth(s)))

    def of_lower_class(self, sequence: T) -> list[T]:
        """The running sequences that ``sequence`` comes before whatever their key, youngest first."""
        rank = self._rank(sequence)
        lower = [s for tenant in self._tenants.values() for s in tenant.running if self._rank(s) > rank]
        return sorted(lower, key=self._youth, reverse=True)

    def comes_before(self, sequence: T, other: T) -> bool:
        """Whether ``sequence`` is of a higher class."""
        return self._rank(sequence) < self._rank(other)

    def above_its_share(self, sequence: T, used: dict[str, float], staying: Collection[T]) -> T | None:
        """The youngest of those ``staying`` of the key that is furthest above its share of what is scarce.

        None if there is no such key, or if ``sequence`` would bring its own above its share. ``used`` tells what part
        each key has, ``sequence`` counted in. A key's only running sequence is never named, nor one of a higher class.
        """
        if used.get(sequence.key, 0.0) > self._share(sequence.key):
            return None
        rank = self._rank(sequence)
        above: dict[float, list[T]] = {}
        for key, part in used.items():
            candidates = [s for s in staying if s.key == key and self._rank(s) >= rank]
            if key != sequence.key and part > self._share(key) and len(candidates) > 1:
                above[part / self._share(key)] = candidates
        return max(above[max(above)], key=self._youth) if above else None

    def _share(self, key: str) -> float:
        """The part of the slots and cells that is the key's while others want them, too."""
        return self._tenants[key].weight / sum(tenant.weight for tenant in self._tenants.values() if tenant.is_open)

    def _rank(self, sequence: T) -> int:
        """0 is served before 1. What waits ages; what runs has the class that it started with."""
        if not sequence.is_batch or sequence in self._aged:
            return 0
        since = self._waiting_since.get(sequence)
        return 1 if since is None else int(self._n_steps - since < AGEING_STEPS)

    def _urgency(self, sequence: T) -> tuple[int, bool, float, int]:
        tenant = self._tenants[sequence.key]
        # One more would bring it above: then it may not have another's slot either (above_its_share).
        n_running = len(tenant.running)
        has_its_share = n_running > 0 and n_running + 1 > self._share(sequence.key) * self._max_running
        # What has been let in already will be computed first.
        to_come = sum(running.n_pending for running in tenant.running) / tenant.weight
        return self._rank(sequence), has_its_share, tenant.served + to_come, self._arrivals[sequence]

    def _youth(self, sequence: T) -> tuple[int, int]:
        """Greatest for the sequence of the lowest class that came last."""
        return self._rank(sequence), self._arrivals[sequence]
