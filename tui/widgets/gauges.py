"""Labelled figures with a curve or a bar beside each, fitted to the width there is."""

from __future__ import annotations

from dataclasses import dataclass

from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget

from tui.dashboard.series import Series, sparkline
from tui.figures import cut, printable

_LABEL_WIDTH = 14
_VALUE_WIDTH = 23
# The history has a moment every 2 s: more cells than this would stand empty.
_MAX_CURVE_WIDTH = 150
_MAX_BAR_WIDTH = 40


@dataclass(frozen=True, slots=True)
class Curve:
    """``top``: what a full cell stands for; None: the greatest that was."""

    series: Series
    top: float | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """Parts of a whole, each of them drawn with its sign."""

    parts: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Gauge:
    """A line. ``is_alarming``: it is marked, and not by its colour alone."""

    label: str
    value: str
    chart: Curve | Bar | None = None
    is_alarming: bool = False


@dataclass(frozen=True, slots=True)
class Cells:
    """Short texts of equal width, as many in a line as fit."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """A line of text."""

    text: str
    style: str = ""


Line = Gauge | Cells | Note


class Gauges(Widget):
    """Shows the lines that it was told last."""

    DEFAULT_CSS = """
    Gauges { height: auto; border: round $primary; padding: 0 1; border-title-style: bold; }
    """

    # pylint would call it a shadow: Textual names its parameters so, too.
    def __init__(self, title: str, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self.border_title = title
        self._lines: tuple[Line, ...] = ()

    def show(self, lines: tuple[Line, ...]) -> None:
        """Draws them if they are other ones."""
        if lines == self._lines:
            return
        width = self.content_size.width
        n_before, self._lines = len(_drawn(self._lines, width)), lines
        self.refresh(layout=len(_drawn(lines, width)) != n_before)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return max(1, len(_drawn(self._lines, width)))

    def render(self) -> Content:
        return Content("\n").join(_drawn(self._lines, self.content_size.width))


def _drawn(lines: tuple[Line, ...], width: int) -> list[Content]:
    drawn: list[Content] = []
    for line in lines:
        if isinstance(line, Gauge):
            drawn.append(_gauge(line, width))
        elif isinstance(line, Cells):
            drawn += _cells(line, width)
        else:
            drawn.append(Content.styled(cut(printable(line.text), max(1, width)), line.style))
    return drawn


def _gauge(gauge: Gauge, width: int) -> Content:
    label = f"{cut(printable(gauge.label), _LABEL_WIDTH):{_LABEL_WIDTH}} "
    value = f"{'! ' if gauge.is_alarming else ''}{printable(gauge.value)}"
    style = "$text-error" if gauge.is_alarming else ""
    if gauge.chart is None:
        return Content.assemble(label, (cut(value, max(1, width - len(label))), style))
    room = width - len(label) - _VALUE_WIDTH - 2
    return Content.assemble(label, (f"{cut(value, _VALUE_WIDTH):>{_VALUE_WIDTH}}  ", style), _chart(gauge.chart, room))


def _chart(chart: Curve | Bar, room: int) -> Content:
    if isinstance(chart, Curve):
        return Content.styled(sparkline(chart.series, min(room, _MAX_CURVE_WIDTH), top=chart.top), "$text-accent")
    width = min(room - 2, _MAX_BAR_WIDTH)
    if width < 1:
        return Content()
    return Content(f"[{bar(chart.parts, width)}]")


def bar(parts: tuple[tuple[str, float], ...], width: int) -> str:
    """Each part's sign in as many cells as it takes of the whole; what isn't nothing has one at least, if there is
    room.
    """
    drawn = ""
    for sign, ratio in parts:
        n_cells = max(1, round(ratio * width)) if ratio > 0 else 0
        drawn += sign * n_cells
    return f"{drawn[:width]:.<{width}}"


def _cells(cells: Cells, width: int) -> list[Content]:
    longest = max(map(len, cells.texts), default=0) + 2
    n_in_line = max(1, width // longest) if longest else 1
    texts = [f"{text:{longest}}" for text in cells.texts]
    return [Content("".join(texts[i : i + n_in_line]).rstrip()) for i in range(0, len(texts), n_in_line)]
