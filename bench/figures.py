"""What a workload reports, and what it must reach."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from bench.rounds import Round
from bench.summary import Spread, spread


class Target(msgspec.Struct, frozen=True):
    """A bound on a figure: on its value, or on its ratio to the ``versus`` family of contestants.

    A family's members are builds of one program (``llama-server (OpenMP)``); the better one counts.
    """

    bound: Literal["at most", "at least"]
    value: float
    versus: str | None = None

    def is_reached(self, reached: float) -> bool:
        return reached <= self.value if self.bound == "at most" else reached >= self.value


class Figure(msgspec.Struct, frozen=True):
    """``name`` ends in its unit: ``_s``, ``_ratio``, ``_us``; counts a second end in ``_per_s``.

    Counts begin with ``n_``.
    """

    name: str
    meaning: str
    target: Target | None = None


class Summary(msgspec.Struct, frozen=True):
    """A figure over all kept rounds: of each contestant, and the rounds' ratios of the first one to each other.

    ``counts`` is the number that the target was held against: the value, or the ratio to the better member of the
    family. It and ``is_reached`` are None without a target or without those it is held against.
    """

    figure: Figure
    values: dict[str, Spread]
    ratios: dict[str, Spread]
    counts: float | None
    is_reached: bool | None


def summarize(figure: Figure, rounds: Sequence[Round], contestants: Sequence[str]) -> Summary:
    """Sums up the rounds; ``contestants`` stand in their order, ours first."""
    values = {}
    for name in contestants:
        known = _values(figure, rounds, name)
        if known:
            values[name] = spread(known.values())
    ratios = {}
    ours = _values(figure, rounds, contestants[0])
    for name in contestants[1:]:
        theirs = _values(figure, rounds, name)
        both = [ours[number] / theirs[number] for number in ours if theirs.get(number)]
        if both:
            ratios[name] = spread(both)
    counts = _counts(figure.target, values.get(contestants[0]), ratios)
    is_reached = figure.target.is_reached(counts) if figure.target is not None and counts is not None else None
    return Summary(figure, values, ratios, counts, is_reached)


def _values(figure: Figure, rounds: Iterable[Round], name: str) -> dict[int, float]:
    """The figure of one contestant by the rounds' numbers."""
    samples = {done.number: done.samples[name] for done in rounds if name in done.samples}
    return {number: sample.figures[figure.name] for number, sample in samples.items() if figure.name in sample.figures}


def _counts(target: Target | None, ours: Spread | None, ratios: dict[str, Spread]) -> float | None:
    if target is None:
        return None
    if target.versus is None:
        return ours.median if ours is not None else None
    family = [ratio.median for name, ratio in ratios.items() if name.split(" (")[0] == target.versus]
    if not family:
        return None
    # Against the better build, this ratio is the worse one.
    return max(family) if target.bound == "at most" else min(family)
