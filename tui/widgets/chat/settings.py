"""The drawer: the system prompt, and how answers are drawn."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, Label, Static, TextArea

from tui.chat.conversation import Conversation
from tui.chat.sampling import KNOBS, Knob, checked


class SettingsDrawer(VerticalScroll, can_focus=False):
    """Checks what is typed as it is typed; ``problem`` is the first thing that can't be sent, as a sentence."""

    DEFAULT_CSS = """
    SettingsDrawer { width: 36; max-width: 50%; border-left: solid $panel-lighten-2; padding: 0 1; display: none; }
    SettingsDrawer.-open { display: block; }
    SettingsDrawer TextArea { height: 6; border: round $panel-lighten-2; }
    SettingsDrawer TextArea:focus { border: round $accent; }
    SettingsDrawer Horizontal { height: 1; }
    SettingsDrawer Horizontal > Label { width: 13; }
    SettingsDrawer Horizontal > Input { width: 1fr; }
    SettingsDrawer .problem { color: $text-error; display: none; }
    SettingsDrawer .problem.-some { display: block; }
    SettingsDrawer .note { color: $text-muted; margin-top: 1; }
    """

    class Changed(Message):
        """The values that can be sent are these; a field with a problem keeps its old one."""

        def __init__(self, system: str, sampling: dict[str, int | float]) -> None:
            super().__init__()
            self.system = system
            self.sampling = sampling

    def __init__(self, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._problems: dict[str, str] = {}
        self._sampling: dict[str, int | float] = {}

    @property
    def problem(self) -> str | None:
        return next((f"{name}: {problem}" for name, problem in self._problems.items()), None)

    def compose(self) -> ComposeResult:
        yield Label("System prompt")
        yield TextArea(id="system", highlight_cursor_line=False)
        for knob in KNOBS:
            with Horizontal():
                label = Label(knob.name)
                label.tooltip = knob.help
                yield label
                field = Input(id=knob.name, placeholder="as the server has it", compact=True)
                field.tooltip = knob.help
                yield field
            yield Static(id=f"{knob.name}-problem", classes="problem", markup=False)
        yield Static("What is empty isn't sent.", classes="note", markup=False)

    def on_mount(self) -> None:
        for field in self.query(Input):
            field.cursor_blink = False
        self.query_one(TextArea).cursor_blink = False

    def show(self, conversation: Conversation) -> None:
        """Puts in what this conversation is set to."""
        self._problems, self._sampling = {}, dict(conversation.sampling)
        with self.prevent(Input.Changed, TextArea.Changed):
            self.query_one("#system", TextArea).load_text(conversation.system)
            for knob in KNOBS:
                value = conversation.sampling.get(knob.name)
                self.query_one(f"#{knob.name}", Input).value = "" if value is None else str(value)
                self._say(knob, "")

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        knob = next(knob for knob in KNOBS if knob.name == event.input.id)
        try:
            value = checked(knob, event.value)
        except ValueError as error:
            self._say(knob, str(error))
            return
        self._say(knob, "")
        if value is None:
            self._sampling.pop(knob.name, None)
        else:
            self._sampling[knob.name] = value
        self._changed()

    def on_text_area_changed(self, event: TextArea.Changed) -> None:
        event.stop()
        self._changed()

    def _changed(self) -> None:
        self.post_message(self.Changed(self.query_one("#system", TextArea).text, dict(self._sampling)))

    def _say(self, knob: Knob, problem: str) -> None:
        line = self.query_one(f"#{knob.name}-problem", Static)
        line.set_class(bool(problem), "-some")
        line.update(Content(f"X {problem}"))
        if problem:
            self._problems[knob.name] = problem
        else:
            self._problems.pop(knob.name, None)
