"""Curves over the last ten minutes, from the server's history."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.schemas.admin import Snapshot

SPAN_S = 600.0
# Where two snapshots lie further apart, the server wasn't there in between.
MAX_STEP_S = 10.0
_BLOCKS = "▁▂▃▄▅▆▇█"

# A time since 1970, and what was so then; None: nothing can be said of that moment.
Point = tuple[float, float | None]
Series = tuple[Point, ...]
Figure = Callable[["Snapshot"], float | None]


def levels(history: Sequence[Snapshot], figure: Figure) -> Series:
    """What it was at each moment."""
    return tuple((moment.time_s, figure(moment)) for moment in history)


def rates(history: Sequence[Snapshot], counter: Figure) -> Series:
    """How much a counter grew in a second. It begins anew with the server: then nothing is said."""
    found = []
    for earlier, later in _steps(history):
        growth = _growth(counter, earlier, later)
        found.append((later.time_s, None if growth is None else growth / (later.time_s - earlier.time_s)))
    return tuple(found)


def shares(history: Sequence[Snapshot], part: Figure, rest: Figure) -> Series:
    """The part's growth in that of both; None where neither grew."""
    found: list[Point] = []
    for earlier, later in _steps(history):
        grown, other = _growth(part, earlier, later), _growth(rest, earlier, later)
        if grown is None or other is None or grown + other == 0:
            found.append((later.time_s, None))
        else:
            found.append((later.time_s, grown / (grown + other)))
    return tuple(found)


def share(history: Sequence[Snapshot], part: Figure, rest: Figure) -> float | None:
    """As :func:`shares`, over all of the time together."""
    grown = other = 0.0
    for earlier, later in _steps(history):
        more, others = _growth(part, earlier, later), _growth(rest, earlier, later)
        if more is not None and others is not None:
            grown, other = grown + more, other + others
    return grown / (grown + other) if grown + other else None


def latest(series: Series) -> float | None:
    """The value of its last moment."""
    return series[-1][1] if series else None


def sparkline(series: Series, width: int, *, top: float | None = None) -> str:
    """The last ten minutes in so many cells, the newest on the right. Where nothing is known, there is a blank.

    ``top`` is the value of a full cell; None: the greatest that there is.
    """
    values = _buckets(series, width)
    if top is None:
        top = max((value for value in values if value is not None), default=0.0)
    return "".join(" " if value is None else _block(value, top) for value in values)


def _block(value: float, top: float) -> str:
    if value <= 0 or top <= 0:
        return _BLOCKS[0]
    # What isn't nothing must not look like it.
    return _BLOCKS[max(1, min(round(value / top * 7), 7))]


def _buckets(series: Series, n: int) -> list[float | None]:
    """The means of equal parts of the time, whose borders stand still: the curve moves, but doesn't flicker."""
    if not series or n <= 0:
        return [None] * max(0, n)
    length_s = SPAN_S / n
    last = int(series[-1][0] // length_s)
    found: list[list[float]] = [[] for _ in range(n)]
    for time_s, value in series:
        place = n - 1 - (last - int(time_s // length_s))
        if value is not None and place >= 0:
            found[place].append(value)
    return [fmean(values) if values else None for values in found]


def _steps(history: Sequence[Snapshot]) -> Iterator[tuple[Snapshot, Snapshot]]:
    return ((earlier, later) for earlier, later in pairwise(history) if later.time_s > earlier.time_s)


def _growth(counter: Figure, earlier: Snapshot, later: Snapshot) -> float | None:
    """None: the counter began anew in between, or nothing is known of it."""
    before, now = counter(earlier), counter(later)
    if before is None or now is None or now < before or later.time_s - earlier.time_s > MAX_STEP_S:
        return None
    return now - before
