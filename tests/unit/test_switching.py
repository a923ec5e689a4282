"""Which model is loaded next, and who makes way."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from appliance.errors import DoesNotFit
from appliance.hardware.estimate import RunShape
from appliance.hardware.fit import Fit
from appliance.hardware.memory_use import RAM, DeviceMemory
from appliance.supervisor.switching import Decision, Load, MakeRoom, Newcomer, Place, Refuse, Resident, Switching

MAX_WAIT_S = 5.0


class Machine:
    """So much memory; models by the room they take, and how many layers they would put where."""

    def __init__(self, total: int, **sizes: int) -> None:
        self.total = total
        self.sizes = sizes
        self.resident: dict[str, Resident] = {}

    def load(self, key: str, *, last_used_at: float = 0.0, n_users: int = 0, is_pinned: bool = False) -> None:
        self.resident[key] = Resident(key, last_used_at, n_users, is_pinned, is_settled=True)

    def place(self, key: str, freed: Sequence[str]) -> Fit:
        free = self.total - sum(self.sizes[name] for name in self.resident if name not in freed)
        if self.sizes[key] > free:
            raise DoesNotFit(f"{key} wants {self.sizes[key]}, {free} are free")
        run = RunShape(n_ctx=1, n_seq_max=1, n_batch=1)
        return Fit(run, {RAM: DeviceMemory(weights_bytes=self.sizes[key])})

    def decide(self, switching: Switching, now: float, *newcomers: Newcomer) -> tuple[list[Decision], float | None]:
        return switching.decide(now, newcomers, list(self.resident.values()), self.place)


@pytest.fixture
def switching() -> Switching:
    return Switching(max_wait_s=MAX_WAIT_S)


def victims(decisions: list[Decision]) -> set[str]:
    (decision,) = decisions
    assert isinstance(decision, MakeRoom)
    return set(decision.victims)


def test_what_fits_is_loaded_at_once(switching: Switching) -> None:
    machine = Machine(10, a=4, b=4)
    machine.load("a", n_users=1)
    ((decision,), _) = machine.decide(switching, 0.0, Newcomer("b", since=0.0))
    assert isinstance(decision, Load)


def test_nothing_is_decided_when_nobody_asks(switching: Switching) -> None:
    assert Machine(1).decide(switching, 0.0) == ([], None)


def test_the_one_that_was_used_longest_ago_makes_way(switching: Switching) -> None:
    machine = Machine(10, a=5, b=5, c=5)
    machine.load("a", last_used_at=2.0)
    machine.load("b", last_used_at=1.0)
    assert victims(machine.decide(switching, 9.0, Newcomer("c", since=9.0))[0]) == {"b"}


def test_bytes_count_and_not_models(switching: Switching) -> None:
    machine = Machine(10, tiny=1, small=2, large=6, new=7)
    machine.load("tiny", last_used_at=1.0)
    machine.load("small", last_used_at=2.0)
    machine.load("large", last_used_at=3.0)
    # The two that were used longest ago would not be enough, and the large one alone is.
    assert victims(machine.decide(switching, 9.0, Newcomer("new", since=9.0))[0]) == {"large"}


def test_a_pinned_model_makes_no_way(switching: Switching) -> None:
    machine = Machine(10, a=6, b=3, c=7)
    machine.load("a", is_pinned=True)
    machine.load("b")
    ((decision,), _) = machine.decide(switching, 9.0, Newcomer("c", since=0.0))
    assert isinstance(decision, Refuse)
    assert "c wants 7, 4 are free" in decision.error.message


def test_a_working_model_is_left_alone_until_somebody_has_waited_long_enough(switching: Switching) -> None:
    machine = Machine(10, a=8, b=8)
    machine.load("a", n_users=1)
    assert machine.decide(switching, 0.0, Newcomer("b", since=0.0)) == ([], MAX_WAIT_S)
    assert machine.decide(switching, 4.9, Newcomer("b", since=0.0)) == ([], MAX_WAIT_S)
    assert victims(machine.decide(switching, 5.0, Newcomer("b", since=0.0))[0]) == {"a"}


def test_an_operator_does_not_wait(switching: Switching) -> None:
    machine = Machine(10, a=8, b=8)
    machine.load("a", n_users=1)
    assert victims(machine.decide(switching, 0.0, Newcomer("b", since=0.0, is_urgent=True))[0]) == {"a"}


def test_who_has_waited_longest_comes_first(switching: Switching) -> None:
    machine = Machine(10, a=8, b=8, c=8)
    machine.load("a")
    decisions, _ = machine.decide(switching, 3.0, Newcomer("b", since=2.0), Newcomer("c", since=1.0))
    assert [decision.key for decision in decisions] == ["c"]


def test_room_is_made_for_one_at_a_time(switching: Switching) -> None:
    machine = Machine(10, a=8, b=8)
    machine.resident["a"] = Resident("a", 0.0, 0, is_pinned=False, is_settled=False)
    assert machine.decide(switching, 9.0, Newcomer("b", since=0.0)) == ([], None)


def test_what_nobody_waits_for_displaces_nobody(switching: Switching) -> None:
    machine = Machine(10, a=8, b=8, c=2)
    machine.load("a")
    assert machine.decide(switching, 9.0, Newcomer("b", since=None)) == ([], None)
    ((decision,), _) = machine.decide(switching, 9.0, Newcomer("c", since=None))
    assert isinstance(decision, Load)


def test_the_largest_offload_is_worth_an_eviction(switching: Switching) -> None:
    """A model that would lie partly on the GPU beside others lies wholly there without them."""

    def place(key: str, freed: Sequence[str]) -> Fit:
        return Fit(RunShape(n_ctx=1, n_seq_max=1, n_batch=1, n_gpu_layers=10 if "a" in freed else 3), {})

    residents = [
        Resident("a", 1.0, 0, is_pinned=False, is_settled=True),
        Resident("b", 0.0, 0, is_pinned=False, is_settled=True),
    ]
    as_place: Place = place
    assert victims(switching.decide(0.0, [Newcomer("c", since=0.0)], residents, as_place)[0]) == {"a"}


def test_alternating_requests_switch_at_once_a_few_times_and_then_seldom() -> None:
    """One request a tenth of a second, for two models in turns that don't fit together; answers take no time."""
    switching, machine = Switching(max_wait_s=MAX_WAIT_S), Machine(10, a=8, b=8)
    machine.load("a")
    waiting: dict[str, list[float]] = {"a": [], "b": []}
    n_switches, longest_wait_s, n_served = 0, 0.0, 0
    for tick in range(1000):
        now = tick / 10
        if tick < 100:
            waiting["ab"[tick % 2]].append(now)
        (loaded,) = machine.resident
        other = "b" if loaded == "a" else "a"
        n_served += len(waiting[loaded])
        if waiting[loaded]:
            longest_wait_s = max(longest_wait_s, now - waiting[loaded][0])
            machine.load(loaded, last_used_at=now)
            waiting[loaded].clear()
        if not waiting[other]:
            continue
        decisions, _ = machine.decide(switching, now, Newcomer(other, since=waiting[other][0]))
        if decisions:
            machine.resident.clear()
            machine.load(other, last_used_at=now)
            n_switches += 1
    assert n_served == 100
    assert n_switches <= 12
    assert longest_wait_s <= MAX_WAIT_S + 0.1
