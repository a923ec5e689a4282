"""Which rounds of the bench count: those in which processor time went to others don't."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.disturbance import CpuTimes, Disturbance, Meter, between, parse_cpu_times
from bench.rounds import Sample, run_rounds

STAT = "cpu  100 5 20 1000 7 1 2 30 40 0\ncpu0 50 2 10 500 3 0 1 15 20 0\n"
QUIET, STOLEN, BUSY = Disturbance(0.01, 0.01), Disturbance(0.03, 0.0), Disturbance(0.0, 0.2)


class FakeMeter(Meter):
    """Reads what it was told, one after the other."""

    def __init__(self, readings: Iterator[Disturbance]) -> None:
        self._readings = readings

    def read(self) -> Disturbance:
        return next(self._readings)


async def measure(number: int) -> Sample:
    return Sample({"x_s": float(number)})


def silent(message: str) -> None:
    pass


async def run(readings: list[Disturbance], n_wanted: int, contestants: tuple[str, ...] = ("a",)):
    fed = iter(readings)
    return await run_rounds(dict.fromkeys(contestants, measure), n_wanted, say=silent, new_meter=lambda: FakeMeter(fed))


def test_guest_time_is_counted_once() -> None:
    assert parse_cpu_times(STAT) == CpuTimes(total=1165, busy=125, steal=30)


def test_a_kernel_without_steal_has_none() -> None:
    assert parse_cpu_times("cpu  1 2 3 4 5\n").steal == 0


def test_steal_is_a_share_of_all_processors_time() -> None:
    before, after = CpuTimes(1000, 100, 10), CpuTimes(1200, 200, 16)
    assert between(before, after, own_s=0).steal_ratio == pytest.approx(0.03)


def test_our_own_processes_are_not_others(monkeypatch) -> None:
    monkeypatch.setattr("bench.disturbance._TICKS_PER_S", 100)
    before, after = CpuTimes(1000, 100, 0), CpuTimes(1200, 200, 0)
    assert between(before, after, own_s=0.9).others_ratio == pytest.approx(0.05)
    # Ticks and the processes' own clocks differ a little.
    assert between(before, after, own_s=1.1).others_ratio == 0.0


def test_no_time_at_all_is_no_disturbance() -> None:
    assert between(CpuTimes(1, 1, 1), CpuTimes(1, 1, 1), own_s=0) == Disturbance()


def test_a_meter_counts_from_its_making(tmp_path: Path) -> None:
    path = tmp_path / "stat"
    path.write_text("cpu  0 0 0 100 0 0 0 0\n")
    meter = Meter(path, own=lambda: 0.0)
    path.write_text("cpu  10 0 0 180 0 0 0 10\n")
    assert meter.read() == Disturbance(steal_ratio=0.1, others_ratio=0.1)


async def test_rounds_with_steal_are_dropped_and_repeated() -> None:
    rounds = await run([QUIET, STOLEN, QUIET, BUSY, QUIET], 3)
    assert [done.number for done in rounds.kept] == [1, 3, 5]
    assert [done.number for done in rounds.dropped] == [2, 4]
    assert not rounds.is_noisy


async def test_a_disturbed_round_ends_before_the_next_contestant() -> None:
    rounds = await run([QUIET, STOLEN, QUIET, QUIET, QUIET], 1, ("a", "b", "c"))
    assert list(rounds.dropped[0].samples) == ["a", "b"]
    assert list(rounds.kept[0].samples) == ["a", "b", "c"]


async def test_after_three_dropped_for_each_wanted_all_count_and_the_report_says_noisy() -> None:
    rounds = await run([STOLEN] * 8, 2)
    assert (len(rounds.dropped), len(rounds.kept)) == (6, 2)
    assert rounds.is_noisy


async def test_contestants_take_turns() -> None:
    turns: list[tuple[str, int]] = []

    def contestant(name: str):
        async def measure(number: int) -> Sample:
            turns.append((name, number))
            return Sample({"x_s": 1.0})

        return measure

    fed = iter([QUIET] * 4)
    contestants = {name: contestant(name) for name in "ab"}
    await run_rounds(contestants, 2, say=silent, new_meter=lambda: FakeMeter(fed))
    assert turns == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
