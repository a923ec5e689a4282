"""The response cache: what it saves, what is in it, and taking answers out."""

from __future__ import annotations

import math
import re
from typing import ClassVar

from pydantic import ValidationError
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from appliance.schemas.cache import CacheContents, CachedAnswers, Purged, PurgeRequest, Vacuumed
from tui.client import ServerError
from tui.figures import count_text, duration_text, printable, size_text
from tui.screens.section import Section
from tui.snapshot import Part, Snapshot
from tui.widgets.cache_stats import COLUMNS, group_key, group_row, stats_text
from tui.widgets.chat.dialogs import AskText, Refused
from tui.widgets.confirm import Confirm, is_confirmed
from tui.widgets.rows import Rows

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd])")
_DEFAULT_AGE = "7d"
_LATER = "They are computed again when they are asked for. Vacuum gives the room back to the disk."


class CacheScreen(Section):
    NAME = "cache"
    NEEDS = frozenset({Part.CACHE})
    AUTO_FOCUS = "#contents"
    DEFAULT_CSS = """
    CacheScreen #stats { height: auto; max-height: 60%; padding: 0 2; margin-bottom: 1; }
    CacheScreen #contents-title { height: 1; padding: 0 2; text-style: bold; background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x,delete", "purge_group", "Purge group", id="cache.purge", tooltip="Remove the answers of this row."),
        Binding(
            "o", "purge_older", "Older", id="cache.older", tooltip="Remove the answers that are older than a time."
        ),
        Binding("a", "purge_all", "All", id="cache.all", tooltip="Remove all answers."),
        Binding("v", "vacuum", "Vacuum", id="cache.vacuum", tooltip="Give free room in the file back to the disk."),
    ]

    def body(self) -> ComposeResult:
        with VerticalScroll(id="stats", can_focus=False):
            yield Static()
        yield Static(id="contents-title")
        yield Rows(*COLUMNS, id="contents")

    def show(self, snapshot: Snapshot) -> None:
        found = snapshot.cache
        if found is None and snapshot.cache_problem is None:
            return
        groups = found.contents if found is not None else []
        now_s = snapshot.status.time_s if snapshot.status is not None else 0.0
        self.query_one(Rows).show([group_row(group, now_s) for group in groups])
        about = stats_text(found.status) if found is not None else Content(snapshot.cache_problem or "")
        self.query_one("#stats Static", Static).update(about)
        self.query_one("#contents-title", Static).update(Content(_contents_title(groups)))

    def action_purge_group(self) -> None:
        current = self.query_one(Rows).current
        found = self.tui.snapshot.cache
        for group in found.contents if found is not None else ():
            if group_key(group) == current:
                self._purge_group(group)

    def action_purge_older(self) -> None:
        if self._has_answers():
            self._purge_older()

    def action_purge_all(self) -> None:
        if (found := self._has_answers()) is not None:
            self._purge_all(sum(group.answers for group in found.contents))

    def action_vacuum(self) -> None:
        self._ask_vacuum()

    @work(exclusive=True, group="ask")
    async def _purge_group(self, group: CachedAnswers) -> None:
        n = count_text(group.answers, "answer")
        of = printable(f"{group.model}@{group.version} for the key {group.key}")
        try:
            wanted = PurgeRequest(model=f"{group.model}@{group.version}", key=group.key)
        except ValidationError:
            self._say("The server names this group so that it can't be asked for it.", is_error=True)
            return
        await self._ask(f"Remove {n} of {of}?", wanted)

    @work(exclusive=True, group="ask")
    async def _purge_older(self) -> None:
        ages: list[float] = []

        async def take(text: str) -> None:
            ages.append(_seconds(text))

        await self.app.push_screen_wait(AskText("Remove answers older than (30m, 12h, 7d)", _DEFAULT_AGE, take))
        if ages:
            question = f"Remove the answers of all models and keys that are older than {duration_text(ages[0])}?"
            await self._ask(question, PurgeRequest(older_than_s=ages[0]))

    @work(exclusive=True, group="ask")
    async def _purge_all(self, n_answers: int) -> None:
        await self._ask(f"Remove all answers, {n_answers} now?", PurgeRequest(all=True))

    @work(exclusive=True, group="ask")
    async def _ask_vacuum(self) -> None:
        question = Confirm(
            "Write the file of the response cache anew?",
            "Room that is free in it goes back to the disk. Answers are given meanwhile.",
            action="Vacuum",
        )
        if await is_confirmed(self, question):
            self._vacuum()

    async def _ask(self, question: str, wanted: PurgeRequest) -> None:
        if await is_confirmed(self, Confirm(question, _LATER, action="Remove")):
            self._purge(wanted)

    @work
    async def _purge(self, wanted: PurgeRequest) -> None:
        try:
            purged = await self.tui.server.post("/admin/cache/purge", Purged, wanted)
        except ServerError as error:
            self._say(error.message, is_error=True)
        else:
            self._say(f"Removed {count_text(purged.purged, 'answer')}.")
        self.tui.poller.hurry()

    @work
    async def _vacuum(self) -> None:
        """Takes as long as it takes, if the file is large."""
        try:
            sizes = await self.tui.server.post("/admin/cache/vacuum", Vacuumed)
        except ServerError as error:
            self._say(error.message, is_error=True)
        else:
            self._say(f"The file has {size_text(sizes.after_bytes)} now, {size_text(sizes.before_bytes)} before.")
        self.tui.poller.hurry()

    def _has_answers(self) -> CacheContents | None:
        """None: there are none, and the user was told so."""
        found = self.tui.snapshot.cache
        if found is not None and found.contents:
            return found
        self._say("No answer is stored.")
        return None

    def _say(self, text: str, *, is_error: bool = False) -> None:
        self.notify(text, severity="error" if is_error else "information", markup=False)


def _contents_title(groups: list[CachedAnswers]) -> str:
    if not groups:
        return "No answer is stored"
    n_answers, n_tokens = sum(g.answers for g in groups), sum(g.tokens for g in groups)
    return f"{count_text(n_answers, 'answer')} with {count_text(n_tokens, 'token')}, by model and API key"


def _seconds(text: str) -> float:
    """Raises Refused."""
    found = _TIME.fullmatch(text.strip().lower())
    seconds = float(found[1]) * _UNITS[found[2]] if found is not None else math.inf
    if not math.isfinite(seconds):
        raise Refused("Want a time such as 30m, 12h or 7d.")
    return seconds
