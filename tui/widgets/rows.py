"""A table of which only the lines that are seen are drawn, so that 500 rows cost no more than twenty.

Textual's DataTable draws every visible cell anew once any cell has changed, which took over 50 ms with 500 requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.figures import printable

Tone = Literal["", "good", "warning", "bad", "quiet"]
# The sign of the line that the cursor is on: the colour alone doesn't tell.
_CURSOR, _NO_CURSOR = "> ", "  "
_GAP = 2
_SHIFT = 16


@dataclass(frozen=True, slots=True)
class Column:
    """``min_width`` keeps it from growing with its first rows; what is longer than ``max_width`` is cut."""

    title: str
    min_width: int = 0
    max_width: int = 40
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Row:
    """``key`` is what it is of; the cursor stays with it."""

    key: str
    cells: tuple[Cell, ...]


class Rows(ScrollView, can_focus=True, inherit_bindings=False):
    """Shows what it was told last. The cursor stays on its row, and that where it is on the screen."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "rows--header",
        "rows--cursor",
        "rows--good",
        "rows--warning",
        "rows--bad",
        "rows--quiet",
    }
    DEFAULT_CSS = """
    Rows { height: 1fr; }
    Rows > .rows--header { text-style: bold; color: $text-primary; }
    Rows > .rows--cursor { background: $surface-lighten-2; }
    Rows:focus > .rows--cursor { background: $block-cursor-background; color: $block-cursor-foreground; }
    Rows > .rows--good { color: $text-success; }
    Rows > .rows--warning { color: $text-warning; }
    Rows > .rows--bad { color: $text-error; }
    Rows > .rows--quiet { text-style: dim; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "Up", id="rows.up", tooltip="One row up.", show=False),
        Binding("down", "move(1)", "Down", id="rows.down", tooltip="One row down.", show=False),
        Binding("pageup", "page(-1)", "Page up", id="rows.page_up", tooltip="A page up.", show=False),
        Binding("pagedown", "page(1)", "Page down", id="rows.page_down", tooltip="A page down.", show=False),
        Binding("home", "first", "First", id="rows.first", tooltip="The first row.", show=False),
        Binding("end", "last", "Last", id="rows.last", tooltip="The last row.", show=False),
        Binding("left", "shift(-1)", "Left", id="rows.left", tooltip="Show the columns further left.", show=False),
        Binding("right", "shift(1)", "Right", id="rows.right", tooltip="Show the columns further right.", show=False),
        Binding("enter", "choose", "Choose", id="rows.choose", tooltip="What is done most with a row.", show=False),
    ]

    @dataclass
    class Highlighted(Message):
        """The cursor has come to a row; None: there is none."""

        rows: Rows
        key: str | None

        @property
        def control(self) -> Rows:
            return self.rows

    @dataclass
    class Chosen(Message):
        """Enter, or two clicks."""

        rows: Rows
        key: str

        @property
        def control(self) -> Rows:
            return self.rows

    # pylint would call it a shadow: Textual names its parameters so, too.
    def __init__(self, *columns: Column, name: str | None = None, id: str | None = None) -> None:  # noqa: A002
        super().__init__(name=name, id=id)
        self._columns = columns
        self._rows: Sequence[Row] = ()
        self._places: dict[str, int] = {}
        self._cursor = 0
        self._widths = [max(column.min_width, cell_len(column.title)) for column in columns]

    @property
    def current(self) -> str | None:
        """The key of the row that the cursor is on."""
        return self._rows[self._cursor].key if self._rows else None

    def show(self, rows: Sequence[Row]) -> None:
        """Draws what has changed of it. Keys are unique."""
        if rows == self._rows:
            return
        before, key, place = self._rows, self.current, self._cursor
        self._rows = rows
        self._places = {row.key: number for number, row in enumerate(rows)}
        last = max(0, len(rows) - 1)
        self._cursor = self._places.get(key, min(place, last)) if key is not None else 0
        if self._fit_widths() or len(rows) != len(before):
            self._resize()
            self._follow(self._cursor - place)
            self.refresh()
        elif self._cursor != place:
            self._follow(self._cursor - place)
            self.refresh()
        else:
            self._refresh_changed(before)
        if self.current != key:
            self.post_message(self.Highlighted(self, self.current))

    def move_to(self, key: str) -> None:
        """Puts the cursor on the row of this key, if it is there."""
        if key in self._places:
            self._move_to(self._places[key])

    def render_line(self, y: int) -> Strip:
        """One of those that are seen: the titles, or a row."""
        offset = self.scroll_offset
        base = self.rich_style
        if y == 0:
            titles = tuple(Cell(column.title) for column in self._columns)
            style = base + self.get_component_rich_style("rows--header", partial=True)
            line = self._line(titles, _NO_CURSOR, style, has_tones=False)
        else:
            number = offset.y + y - 1
            if number >= len(self._rows):
                return Strip.blank(self.size.width, base)
            is_current = number == self._cursor
            style = base + self.get_component_rich_style("rows--cursor", partial=True) if is_current else base
            # Beside the cursor's own colours others could not be read.
            has_tones = not (is_current and self.has_focus)
            line = self._line(
                self._rows[number].cells, _CURSOR if is_current else _NO_CURSOR, style, has_tones=has_tones
            )
        return line.crop_extend(offset.x, offset.x + self.size.width, style)

    def _line(self, cells: tuple[Cell, ...], sign: str, style: Style, *, has_tones: bool) -> Strip:
        segments = [Segment(sign, style)]
        for column, cell, width in zip(self._columns, cells, self._widths, strict=True):
            tone = style
            if has_tones and cell.tone:
                tone = style + self.get_component_rich_style(f"rows--{cell.tone}", partial=True)
            text = _fitted(cell.text, width, is_number=column.is_number)
            segments.append(Segment(text + " " * _GAP, tone))
        return Strip(segments)

    def _fit_widths(self) -> bool:
        """Columns only grow: what moves can't be read. True if one has grown."""
        grown = False
        for number, column in enumerate(self._columns):
            longest = max((cell_len(row.cells[number].text) for row in self._rows), default=0)
            wanted = min(longest, column.max_width)
            if wanted > self._widths[number]:
                self._widths[number] = wanted
                grown = True
        return grown

    def _resize(self) -> None:
        width = len(_CURSOR) + sum(self._widths) + _GAP * (len(self._widths) - 1)
        self.virtual_size = Size(width, len(self._rows) + 1)

    def on_mount(self) -> None:  # Textual calls the base class's, too
        self._resize()

    def _refresh_changed(self, before: Sequence[Row]) -> None:
        first = self.scroll_offset.y
        seen = range(first, min(first + self._n_seen, len(before)))
        for number in seen:
            if self._rows[number] != before[number]:
                self.refresh(Region(0, 1 + number - first, self.size.width, 1))

    def _follow(self, n_moved: int) -> None:
        """Scrolls with the cursor's row if that is seen."""
        top = self.scroll_offset.y
        if n_moved and top <= self._cursor - n_moved < top + self._n_seen:
            self.scroll_to(y=top + n_moved, animate=False, force=True)

    @property
    def _n_seen(self) -> int:
        return max(1, self.size.height - 1)

    def _move_to(self, number: int) -> None:
        number = max(0, min(number, len(self._rows) - 1))
        if not self._rows or number == self._cursor:
            return
        self._cursor = number
        top = self.scroll_offset.y
        if number < top:
            self.scroll_to(y=number, animate=False, force=True)
        elif number >= top + self._n_seen:
            self.scroll_to(y=number - self._n_seen + 1, animate=False, force=True)
        self.refresh()
        self.post_message(self.Highlighted(self, self.current))

    def action_move(self, n: int) -> None:
        self._move_to(self._cursor + n)

    def action_page(self, n: int) -> None:
        self._move_to(self._cursor + n * self._n_seen)

    def action_first(self) -> None:
        self._move_to(0)

    def action_last(self) -> None:
        self._move_to(len(self._rows) - 1)

    def action_shift(self, n: int) -> None:
        self.scroll_relative(x=n * _SHIFT, animate=False)

    def action_choose(self) -> None:
        if self.current is not None:
            self.post_message(self.Chosen(self, self.current))

    def on_click(self, event: events.Click) -> None:
        number = self.scroll_offset.y + event.y - 1
        if event.y < 1 or number >= len(self._rows):
            return
        self._move_to(number)
        if event.chain == 2:
            self.action_choose()


def _fitted(text: str, width: int, *, is_number: bool) -> str:
    """In exactly so many cells of the terminal."""
    text = printable(text)
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + "…"
    return " " * (width - length) + text if is_number else text + " " * (width - length)
