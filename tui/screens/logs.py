"""The server's log, the engines' lines among it, as it is written."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Input, Static

from appliance.schemas.admin import LogLines, Status
from tui.client import ServerError
from tui.figures import count_text
from tui.log_lines import LEVELS, LogEntry, entry
from tui.screens.section import Section
from tui.widgets.log_view import MAX_LINES, LogView

# Lines are drawn no more often than this, however many come.
REFRESH_S = 0.25
RETRY_S = 2.0
MAX_RETRY_S = 15.0


class LogsScreen(Section):
    NAME = "logs"
    AUTO_FOCUS = "LogView"
    DEFAULT_CSS = """
    LogsScreen #filter { padding: 0 2; }
    LogsScreen #log-state { height: 1; padding: 0 2; background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l", "level", "Level", id="logs.level", tooltip="Show only what is at least this bad."),
        Binding("slash", "filter", "Filter", id="logs.filter", tooltip="Show only lines with these words in them."),
        Binding("escape", "show_all", "Show all", id="logs.all", tooltip="Forget the filter and the level."),
        Binding("c", "copy", "Copy line", id="logs.copy", tooltip="Copy this line, as it was written."),
        Binding("a", "copy_all", "Copy all", id="logs.copy_all", tooltip="Copy all lines that are shown."),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._entries: deque[LogEntry] = deque(maxlen=MAX_LINES)
        self._coming: list[LogEntry] = []
        self._started_s: float | None = None
        self._lowest = 0
        self._words: tuple[str, ...] = ()

    def body(self) -> ComposeResult:
        yield Input(placeholder="Filter: words of a line", id="filter", compact=True)
        yield LogView(id="log")
        yield Static(id="log-state")

    def on_mount(self) -> None:
        self._drawing = self.set_interval(REFRESH_S, self._draw_coming, pause=True)
        self._say()

    def on_screen_resume(self) -> None:  # Textual calls the base class's, too
        self._follow()

    def on_screen_suspend(self) -> None:
        """What is written meanwhile is fetched when it is shown again."""
        self.workers.cancel_group(self, "follow")
        self._draw_coming()

    @work(exclusive=True, group="follow")
    async def _follow(self) -> None:
        """Until it is cancelled. A lost server is the banner's to tell."""
        retry_s = RETRY_S
        while True:
            with contextlib.suppress(ServerError):
                await self._begin()
                retry_s = RETRY_S
                await self._read_on()
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, MAX_RETRY_S)

    async def _begin(self) -> None:
        """Fetches what there is; a server that was started anew numbers its lines from 1 again."""
        server = self.tui.server
        status = await server.get("/admin/status", Status)
        if status.started_s != self._started_s:
            self._started_s = status.started_s
            after = 0
        else:
            after = self._newest
        found = await server.get(f"/admin/logs?after={after}&limit={MAX_LINES}", LogLines)
        self._take([entry(line.number, line.line) for line in found.lines])

    async def _read_on(self) -> None:
        path = f"/admin/logs?after={self._newest}&follow=true"
        async with contextlib.aclosing(self.tui.server.stream("GET", path)) as events:
            async for event in events:
                if isinstance(event, dict):
                    self._take([entry(int(event["number"]), str(event["line"]))])

    @property
    def _newest(self) -> int:
        """The number of the last line of the server that runs now."""
        if self._coming:
            return self._coming[-1].number
        return self._entries[-1].number if self._entries else 0

    def _take(self, entries: list[LogEntry]) -> None:
        self._coming += entries
        del self._coming[:-MAX_LINES]
        if entries:
            self._drawing.resume()

    def _draw_coming(self) -> None:
        self._drawing.pause()
        coming, self._coming = self._coming, []
        if not coming:
            return
        self._entries += coming
        self._view.add([line for line in coming if self._is_wanted(line)])
        self._say()

    def _is_wanted(self, line: LogEntry) -> bool:
        if line.rank < self._lowest:
            return False
        return not self._words or all(word in line.text.lower() for word in self._words)

    def _show_wanted(self) -> None:
        self._draw_coming()
        self._view.replace(filter(self._is_wanted, self._entries))
        self._say()

    def _say(self) -> None:
        n_all, n_shown = len(self._entries), len(self._view.lines)
        shown = count_text(n_all, "line") if n_shown == n_all else f"{n_shown} of {count_text(n_all, 'line')}"
        level = "" if self._lowest == 0 else f", {LEVELS[self._lowest]}{' and worse' if self._lowest < 3 else 's'}"
        state = "Following" if self._view.is_following else "Paused: End follows again"
        self.query_one("#log-state", Static).update(Content(f"{state}. {shown}{level}."))

    @property
    def _view(self) -> LogView:
        return self.query_one(LogView)

    def on_log_view_following_changed(self) -> None:
        self._say()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._words = tuple(event.value.lower().split())
        self._show_wanted()

    def on_input_submitted(self) -> None:
        self._view.focus()

    def action_level(self) -> None:
        """The next one; after the worst, all again."""
        self._lowest = (self._lowest + 1) % len(LEVELS)
        self._show_wanted()

    def action_filter(self) -> None:
        self.query_one(Input).focus()

    def action_show_all(self) -> None:
        self._lowest = 0
        self.query_one(Input).value = ""
        self._show_wanted()
        self._view.focus()

    def action_copy(self) -> None:
        if (line := self._view.current) is not None:
            self._copy(line.text, "line")

    def action_copy_all(self) -> None:
        lines = self._view.lines
        if lines:
            self._copy("\n".join(line.text for line in lines), count_text(len(lines), "line"))

    def _copy(self, text: str, what: str) -> None:
        self.app.copy_to_clipboard(text)
        self.notify(f"Copied {'the ' if what == 'line' else ''}{what}.", markup=False)
