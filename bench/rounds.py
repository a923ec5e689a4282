"""Rounds: every contestant is measured once, one after the other, and then all again.

On a shared machine a neighbour can make a measurement five times slower. Contestants that were measured within a few
seconds of each other are compared, and a round in which processor time went to others is repeated.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from bench.disturbance import Disturbance, Meter
from bench.progress import Progress

LIMIT = Disturbance(steal_ratio=0.02, others_ratio=0.05)
# For servers that are not our processes: they would count as others.
STEAL_ONLY = Disturbance(steal_ratio=LIMIT.steal_ratio, others_ratio=1.0)
_ANY = Disturbance(1.0, 1.0)
# So many times the rounds that are wanted may be dropped.
DROPPED_PER_WANTED = 3


class Sample(msgspec.Struct, frozen=True):
    """What one measurement of one contestant gave: its figures by name, and what they were made from."""

    figures: dict[str, float]
    raw: dict[str, Any] = {}


class Round(msgspec.Struct, frozen=True):
    """``disturbance`` is the worst of its measurements'."""

    number: int
    samples: dict[str, Sample]
    disturbance: Disturbance


class Rounds(msgspec.Struct, frozen=True):
    """``is_noisy``: so many rounds were dropped that the last ones count whatever disturbed them."""

    kept: tuple[Round, ...]
    dropped: tuple[Round, ...]
    is_noisy: bool


# Measures once; the argument is the round's number, of which every prompt is made.
Measure = Callable[[int], Awaitable[Sample]]


async def run_rounds(
    contestants: Mapping[str, Measure],
    n_wanted: int,
    *,
    say: Progress,
    limit: Disturbance = LIMIT,
    new_meter: Callable[[], Meter] = Meter,
) -> Rounds:
    """Measures until ``n_wanted`` rounds are kept; those with more disturbance than ``limit`` are dropped."""
    kept: list[Round] = []
    dropped: list[Round] = []
    n_droppable = DROPPED_PER_WANTED * n_wanted
    while len(kept) < n_wanted:
        number = len(kept) + len(dropped) + 1
        bound = limit if len(dropped) < n_droppable else _ANY
        done = await _run_round(contestants, number, bound, new_meter)
        if done.disturbance.exceeds(bound):
            dropped.append(done)
            found = done.disturbance
            say(f"  round dropped: {found.steal_ratio:.1%} was stolen, others used {found.others_ratio:.1%}")
        else:
            kept.append(done)
            say(f"  round {len(kept)} of {n_wanted}: {_digest(done)}")
    return Rounds(tuple(kept), tuple(dropped), len(dropped) >= n_droppable)


async def _run_round(
    contestants: Mapping[str, Measure], number: int, limit: Disturbance, new_meter: Callable[[], Meter]
) -> Round:
    """A round; it ends early once there was too much disturbance."""
    samples: dict[str, Sample] = {}
    worst = Disturbance()
    for name, measure in contestants.items():
        meter = new_meter()
        samples[name] = await measure(number)
        worst = worst.worst(meter.read())
        if worst.exceeds(limit):
            break
    return Round(number, samples, worst)


def _digest(done: Round) -> str:
    """The first figure of each contestant that has one."""
    firsts = {name: next(iter(sample.figures.items())) for name, sample in done.samples.items() if sample.figures}
    return ", ".join(f"{name} {figure} {value:.4g}" for name, (figure, value) in firsts.items())
