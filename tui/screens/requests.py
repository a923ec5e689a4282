"""The requests that wait and run, those that ended lately, and cancelling one."""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import quote

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Input, Static

from appliance.schemas.admin import RequestList, RequestStatus
from tui.client import ServerError
from tui.figures import count_text, duration_text, printable
from tui.screens.section import Section
from tui.snapshot import Part, Snapshot
from tui.widgets.confirm import Confirm, is_confirmed
from tui.widgets.request_rows import OPEN_COLUMNS, RECENT_COLUMNS, has_words, open_row, recent_row
from tui.widgets.rows import Row, Rows


class RequestsScreen(Section):
    NAME = "requests"
    NEEDS = frozenset({Part.REQUESTS})
    AUTO_FOCUS = "#open"
    DEFAULT_CSS = """
    RequestsScreen .title { height: 1; padding: 0 2; text-style: bold; background: $panel; }
    RequestsScreen #filter { padding: 0 2; }
    RequestsScreen #open { height: 2fr; }
    RequestsScreen #recent { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x,delete", "cancel", "Cancel", id="requests.cancel", tooltip="End this request; its client is told."),
        Binding("slash", "filter", "Filter", id="requests.filter", tooltip="Show only those with these words in them."),
        Binding("escape", "show_all", "Show all", id="requests.all", tooltip="Forget the filter."),
        Binding("c", "copy_id", "Copy id", id="requests.copy", tooltip="Copy the whole id of this request."),
    ]

    def body(self) -> ComposeResult:
        yield Input(placeholder="Filter: words of a model, key, state, outcome or id", id="filter", compact=True)
        yield Static(id="open-title", classes="title")
        yield Rows(*OPEN_COLUMNS, id="open")
        yield Static(id="recent-title", classes="title")
        yield Rows(*RECENT_COLUMNS, id="recent")

    def show(self, snapshot: Snapshot) -> None:
        if (found := snapshot.requests) is None:
            return
        opened = self._show_rows("open", [open_row(request) for request in found.requests])
        recent = self._show_rows("recent", [recent_row(request) for request in found.recent])
        self._title("open", f"{_counts(found)}{opened}")
        self._title("recent", f"{len(found.recent)} ended lately{recent}")

    def on_input_changed(self) -> None:
        self.show(self.tui.snapshot)

    def on_input_submitted(self) -> None:
        self.query_one("#open", Rows).focus()

    def action_filter(self) -> None:
        self.query_one(Input).focus()

    def action_show_all(self) -> None:
        self.query_one(Input).value = ""
        self.query_one("#open", Rows).focus()

    def action_copy_id(self) -> None:
        rows = self.query_one("#recent" if self.query_one("#recent").has_focus else "#open", Rows)
        if rows.current is not None:
            self.app.copy_to_clipboard(rows.current)
            self.notify(f"Copied {printable(rows.current)}.", markup=False)

    def action_cancel(self) -> None:
        current = self.query_one("#open", Rows).current
        found = self.tui.snapshot.requests
        for request in found.requests if found is not None else ():
            if request.id == current:
                self._cancel(request)

    @work(exclusive=True, group="ask")
    async def _cancel(self, request: RequestStatus) -> None:
        question = Confirm(f"Cancel {printable(request.id)}?", _cancel_text(request), action="Cancel it")
        if await is_confirmed(self, question):
            self._send(request.id)

    @work
    async def _send(self, request_id: str) -> None:
        try:
            await self.tui.server.delete(f"/admin/requests/{quote(request_id, safe='')}")
        except ServerError as error:
            self.notify(error.message, severity="error", markup=False)
        else:
            self.notify(f"{printable(request_id)} is cancelled.", markup=False)
        self.tui.poller.hurry()

    def _show_rows(self, name: str, rows: list[Row]) -> str:
        """What is to be said of the filter."""
        words = self.query_one(Input).value.lower().split()
        shown = [row for row in rows if has_words(row, words)]
        self.query_one(f"#{name}", Rows).show(shown)
        return f"; {len(shown)} of {len(rows)} have these words" if words else ""

    def _title(self, name: str, text: str) -> None:
        self.query_one(f"#{name}-title", Static).update(Content(text))


def _counts(found: RequestList) -> str:
    if not found.requests:
        return "No request waits or runs"
    n_waiting = sum(request.state == "waiting" for request in found.requests)
    return f"{count_text(len(found.requests), 'open request')}: {n_waiting} waiting"


def _cancel_text(request: RequestStatus) -> str:
    answer = count_text(request.completion_pieces, "piece")
    return printable(
        f"It is of the key {request.key}, to {request.model}, {duration_text(request.age_s)} old, and has {answer} "
        f"of its answer so far."
    ) + ("\nIts client gets an error. Others that wait for the same answer get theirs.")
