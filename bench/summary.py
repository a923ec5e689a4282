"""Figures of many rounds in a few numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

import msgspec


class Spread(msgspec.Struct, frozen=True):
    """The median of some values, with the least and the greatest."""

    median: float
    least: float
    greatest: float


def spread(values: Iterable[float]) -> Spread:
    """Raises ValueError without values."""
    known = list(values)
    if not known:
        raise ValueError("there are no values")
    return Spread(statistics.median(known), min(known), max(known))


def percentile(values: Sequence[float], part: float) -> float:
    """The least value that at least ``part`` (0 to 1) of all values don't exceed: always one that occurred.

    Raises ValueError without values.
    """
    if not values:
        raise ValueError("there are no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]
