"""The same question to two models, side by side."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import time
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from tui.chat.comparison import Compared, ResultsRefused, asked, read_results
from tui.chat.conversation import Answer, Conversation
from tui.chat.display import cut, shown
from tui.chat.models import model_asked, models
from tui.chat.turn import Turn, request_body
from tui.figures import printable
from tui.screens.section import Section
from tui.snapshot import Part, Snapshot
from tui.widgets.chat.composer import Composer
from tui.widgets.chat.dialogs import AskText, Refused
from tui.widgets.chat.model_picker import model_picker
from tui.widgets.chat.shown import Shown, waiting_for
from tui.widgets.chat.transcript import Transcript

REFRESH_S = 0.25
MAX_QUESTION_CHARS = 500
LEFT, RIGHT = 0, 1


class CompareScreen(Section):
    """Stands before the chat, and goes back to it."""

    NAME = "chat"
    NEEDS = frozenset({Part.MODELS})
    AUTO_FOCUS = "Composer"
    DEFAULT_CSS = """
    CompareScreen #asked { height: auto; max-height: 5; padding: 0 2; background: $panel; }
    CompareScreen .side { width: 1fr; }
    CompareScreen #right { border-left: solid $panel-lighten-2; }
    CompareScreen .model { height: 1; padding: 0 2; text-style: bold; text-wrap: nowrap; text-overflow: ellipsis; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Stop, back", id="compare.leave", tooltip="Stop the answers, or go back."),
        Binding("ctrl+t", "pick_models", "Models", id="compare.models", tooltip="Choose the two models."),
        Binding("ctrl+o", "open", "Open results", id="compare.open", tooltip="Open what `models compare` has written."),
        Binding("alt+left", "turn(-1)", "Before", id="compare.before", tooltip="The result before."),
        Binding("alt+right", "turn(1)", "Next", id="compare.next", tooltip="The next result."),
        Binding("c", "copy", "Copy", id="compare.copy", tooltip="Copy the answer under the cursor."),
    ]

    @dataclass
    class Answered(Message):
        """Both are complete, stopped or failed."""

        compared: Compared

    def __init__(self, text: str, like: Conversation) -> None:
        """``text`` may be asked; ``like`` has the system prompt and sampling."""
        super().__init__()
        self.models: list[str | None] = [None, None]
        self.results: list[Compared] = []
        self._text = text
        self._like = like
        self._place = 0
        self._source = ""
        self._turns: list[Turn] = []
        self._drawn: list[tuple[int, str]] = []

    def body(self) -> ComposeResult:
        yield Static(id="asked", markup=False)
        with Horizontal():
            for name in ("left", "right"):
                with Vertical(id=name, classes="side"):
                    yield Static(classes="model", markup=False)
                    yield Transcript("Enter asks both models at once.\n\nCtrl+T chooses them, Ctrl+O opens results.")
        yield Composer()

    def on_mount(self) -> None:
        self._refreshing = self.set_interval(REFRESH_S, self._draw_turns, pause=True)
        self.query_one(Composer).put(self._text)
        self._show_result()

    @property
    def sides(self) -> list[Transcript]:
        return list(self.query(Transcript))

    @property
    def is_asking(self) -> bool:
        return any(turn.answer.outcome == "running" for turn in self._turns)

    def show(self, snapshot: Snapshot) -> None:
        """Two models that are there are chosen, once it is known which there are."""
        names = [model.name for model in models(snapshot)]
        if self.models == [None, None] and names:
            default = snapshot.status.default if snapshot.status is not None else None
            names.sort(key=lambda name: name != default)
            self.models = [names[0], names[-1]]
        self._show_models()

    def _show_models(self) -> None:
        for side, (line, name) in enumerate(zip(self.query(".model").results(Static), self.models, strict=True)):
            if self._source:
                text = f"{'AB'[side]}, of {self._source}"
            else:
                model = model_asked(self.tui.snapshot, name) if name is not None else None
                state = f" ({model.state})" if model is not None and model.state else ""
                text = f"{'AB'[side]}: {name or '-'}{state}"
            line.update(Content(printable(text)))

    @work(exclusive=True, group="show")
    async def _show_result(self) -> None:
        if not self.display:  # the app is being closed
            return
        line = self.query_one("#asked", Static)
        line.display = bool(self.results)
        self.refresh_bindings()
        self._show_models()
        if not self.results:
            for side in self.sides:
                await side.show([])
            return
        compared = self.results[self._place]
        number = f"{self._place + 1}/{len(self.results)}  " if len(self.results) > 1 else ""
        verdict = f"  ({compared.verdict})" if compared.verdict else ""
        line.update(Content(f"{number}{cut(shown(compared.question), MAX_QUESTION_CHARS)}{verdict}"))
        for side, answer in zip(self.sides, compared.answers, strict=True):
            await side.show([Shown(answer)])

    async def _draw_turns(self) -> None:
        now = [(turn.version, waiting_for(turn, self.tui.snapshot)) for turn in self._turns]
        if now != self._drawn:
            self._drawn = now
            for side, turn in zip(self.sides, self._turns, strict=True):
                await side.update(Shown(turn.answer, waiting=waiting_for(turn, self.tui.snapshot)))

    def on_composer_submitted(self, message: Composer.Submitted) -> None:
        text = message.text.strip("\n")
        left, right = self.models
        if self.is_asking:
            self.notify("Answers are being given; Esc stops them.", severity="warning")
        elif left is None or right is None:
            self.notify("Choose two models first: Ctrl+T.", severity="warning")
        elif text.strip():
            self._ask(text, [left, right])

    def _ask(self, text: str, names: list[str]) -> None:
        self._turns, bodies = [], []
        for name in names:
            conversation, question = asked(self._like, name, text, time())
            bodies.append(request_body(conversation, question))
            self._turns.append(Turn(Answer(parent=question.id, created_s=time(), model=name)))
        left, right = self._turns
        self.results, self._place, self._source = [Compared(text, (left.answer, right.answer))], 0, ""
        self._answer(list(zip(self._turns, bodies, strict=True)), self.results[0])
        self._refreshing.resume()
        self._show_result()

    @work(exclusive=True, group="answers")
    async def _answer(self, turns: list[tuple[Turn, dict[str, object]]], compared: Compared) -> None:
        try:
            await asyncio.gather(*(turn.run(self.tui.server, body) for turn, body in turns))
        finally:
            self.post_message(self.Answered(compared))

    def on_compare_screen_answered(self) -> None:
        self._refreshing.pause()
        self._show_result()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "turn" or len(self.results) > 1

    def action_leave(self) -> None:
        if self.is_asking:
            self.workers.cancel_group(self, "answers")
        else:
            self.dismiss()

    @work
    async def action_pick_models(self) -> None:
        for side in (LEFT, RIGHT):
            picker = model_picker(self.tui.snapshot, self.models[side], with_default=False)
            chosen = await self.app.push_screen_wait(picker)
            if chosen is None:
                return
            self.models[side] = chosen
            self._show_models()

    def action_open(self) -> None:
        title = "Open what `appliance models compare --json` has written: its path"
        self.app.push_screen(AskText(title, "", self._open))

    async def _open(self, typed: str) -> None:
        if self.is_asking:
            raise Refused("Answers are being given; stop them first.")
        try:
            results = await asyncio.to_thread(read_results, typed)
        except ResultsRefused as error:
            raise Refused(str(error)) from None
        self.results, self._place, self._turns = results, 0, []
        self._source = typed.strip().rsplit("/", 1)[-1]
        self._show_result()

    def action_turn(self, step: int) -> None:
        self._place = (self._place + step) % len(self.results)
        self._show_result()

    def action_copy(self) -> None:
        for side in self.sides:
            if side.focused_message is not None:
                side.copy()
