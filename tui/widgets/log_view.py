"""Ten thousand lines of a log, of which those that are seen are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.log_lines import LogEntry, shown

MAX_LINES = 10_000
_SHIFT = 20
_STYLES = {"debug": "log-view--debug", "warning": "log-view--warning", "error": "log-view--error"}


class LogView(ScrollView, can_focus=True, inherit_bindings=False):
    """Follows the newest line until the cursor leaves it, and again once it is back there."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {*_STYLES.values(), "log-view--cursor"}
    DEFAULT_CSS = """
    LogView { height: 1fr; scrollbar-size-horizontal: 0; }
    LogView > .log-view--debug { text-style: dim; }
    LogView > .log-view--warning { color: $text-warning; }
    LogView > .log-view--error { color: $text-error; text-style: bold; }
    LogView > .log-view--cursor { background: $surface-lighten-2; }
    LogView:focus > .log-view--cursor { background: $block-cursor-background; color: $block-cursor-foreground; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "Up", id="log.up", tooltip="One line up; no longer follow.", show=False),
        Binding("down", "move(1)", "Down", id="log.down", tooltip="One line down.", show=False),
        Binding("pageup", "page(-1)", "Page up", id="log.page_up", tooltip="A page up; no longer follow.", show=False),
        Binding("pagedown", "page(1)", "Page down", id="log.page_down", tooltip="A page down.", show=False),
        Binding("home", "first", "First", id="log.first", tooltip="The oldest line.", show=False),
        Binding("end", "follow", "Follow", id="log.follow", tooltip="The newest line, and those that come."),
        Binding("left", "shift(-1)", "Left", id="log.left", tooltip="Show what is further left.", show=False),
        Binding("right", "shift(1)", "Right", id="log.right", tooltip="Show what is further right.", show=False),
    ]

    @dataclass
    class FollowingChanged(Message):
        is_following: bool

    # pylint would call it a shadow: Textual names its parameters so, too.
    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._lines: list[LogEntry] = []
        self._cursor = 0
        self._width = 0
        self.is_following = True

    @property
    def current(self) -> LogEntry | None:
        """The line that the cursor is on."""
        return self._lines[self._cursor] if self._lines else None

    @property
    def lines(self) -> Sequence[LogEntry]:
        return self._lines

    def replace(self, lines: Iterable[LogEntry]) -> None:
        """Shows these. The cursor stays on its line, or goes to the next one that there is."""
        current = self.current
        self._lines = list(lines)[-MAX_LINES:]
        self._width = max((cell_len(line.text) for line in self._lines), default=0) + 2
        last = max(0, len(self._lines) - 1)
        if self.is_following or current is None:
            self._cursor = last
        else:
            numbers = (place for place, line in enumerate(self._lines) if line.number >= current.number)
            self._cursor = next(numbers, last)
        self._resize()
        self._see_cursor()
        self.refresh()

    def add(self, lines: Sequence[LogEntry]) -> None:
        """Adds newer ones. What is read is not moved away, but for the oldest when there are too many."""
        if not lines:
            return
        self._lines += lines
        n_gone = max(0, len(self._lines) - MAX_LINES)
        del self._lines[:n_gone]
        self._width = max(self._width, *(cell_len(line.text) + 2 for line in lines))
        top = self.scroll_offset.y
        self._resize()
        if self.is_following:
            self._cursor = len(self._lines) - 1
            self._see_cursor()
        else:
            self._cursor = max(0, self._cursor - n_gone)
            if n_gone:
                self.scroll_to(y=max(0, top - n_gone), animate=False, force=True, immediate=True)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """One of those that are seen."""
        offset = self.scroll_offset
        base = self.rich_style
        number = offset.y + y
        if number >= len(self._lines):
            return Strip.blank(self.size.width, base)
        line = self._lines[number]
        style = base
        if line.level in _STYLES:
            style = base + self.get_component_rich_style(_STYLES[line.level], partial=True)
        if number == self._cursor:
            style += self.get_component_rich_style("log-view--cursor", partial=True)
        strip = Strip([Segment(shown(line), style)])
        return strip.crop_extend(offset.x, offset.x + self.size.width, style)

    def _resize(self) -> None:
        self.virtual_size = Size(self._width, len(self._lines))

    def _move_to(self, number: int) -> None:
        if not self._lines:
            return
        self._cursor = max(0, min(number, len(self._lines) - 1))
        self._set_following(self._cursor == len(self._lines) - 1)
        self._see_cursor()
        self.refresh()

    def _set_following(self, is_following: bool) -> None:
        if is_following != self.is_following:
            self.is_following = is_following
            self.post_message(self.FollowingChanged(is_following))

    def _see_cursor(self) -> None:
        height = max(1, self.scrollable_content_region.height)
        top = self.scroll_offset.y
        if self._cursor < top:
            self.scroll_to(y=self._cursor, animate=False, force=True, immediate=True)
        elif self._cursor >= top + height:
            self.scroll_to(y=self._cursor - height + 1, animate=False, force=True, immediate=True)

    def on_resize(self) -> None:
        self._see_cursor()

    def action_move(self, n: int) -> None:
        self._move_to(self._cursor + n)

    def action_page(self, n: int) -> None:
        self._move_to(self._cursor + n * max(1, self.scrollable_content_region.height))

    def action_first(self) -> None:
        self._move_to(0)

    def action_follow(self) -> None:
        self._move_to(len(self._lines) - 1)

    def action_shift(self, n: int) -> None:
        self.scroll_relative(x=n * _SHIFT, animate=False)

    def on_click(self, event: events.Click) -> None:
        self._move_to(min(self.scroll_offset.y + event.y, len(self._lines) - 1))

    def on_mouse_scroll_up(self) -> None:
        """Who scrolls up reads: what comes must not move it away."""
        self._set_following(False)
