"""Small questions: a line of text, or one of several things."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

_CSS = """
{name} {{ align: center middle; }}
{name} > Vertical {{
    width: 70; max-width: 100%; height: auto; max-height: 100%;
    border: round $primary; background: $surface; padding: 0 1;
}}
{name} #title {{ text-style: bold; }}
"""


class Refused(Exception):
    """What was typed can't be done; the reason is one sentence for people."""


class AskText(ModalScreen[None]):
    """Stays open with what was typed until it could be done, or was given up."""

    DEFAULT_CSS = (
        _CSS.format(name="AskText")
        + """
    AskText #problem { color: $text-error; display: none; }
    AskText #problem.-some { display: block; }
    """
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Close", id="dialog.close", tooltip="Do nothing."),
    ]

    def __init__(self, title: str, value: str, do: Callable[[str], Awaitable[None]]) -> None:
        """``do`` is called with what was typed, and may raise Refused."""
        super().__init__()
        self._title = title
        self._value = value
        self._do = do

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(self._title, id="title", markup=False)
            yield Input(self._value, compact=True, select_on_focus=False)
            yield Static(id="problem", markup=False)

    def on_mount(self) -> None:
        self.query_one(Input).cursor_blink = False

    async def on_input_submitted(self, event: Input.Submitted) -> None:
        problem = self.query_one("#problem", Static)
        try:
            await self._do(event.value)
        except Refused as error:
            problem.update(Content(f"X {error}"))
            problem.add_class("-some")
        else:
            self.dismiss()

    def action_close(self) -> None:
        self.dismiss()


class Choose(ModalScreen[str | None]):
    """The id of what was chosen, or None."""

    DEFAULT_CSS = (
        _CSS.format(name="Choose")
        + """
    Choose OptionList, Choose OptionList:focus { height: auto; max-height: 20; border: none; }
    """
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Close", id="dialog.close", tooltip="Choose nothing."),
    ]

    def __init__(self, title: str, options: Sequence[tuple[str, Content]], chosen: str | None = None) -> None:
        """``options`` are ids and what is shown for them; the cursor is on ``chosen``."""
        super().__init__()
        self._title = title
        self._options = options
        self._chosen = chosen

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(self._title, id="title", markup=False)
            yield OptionList(*(Option(prompt, option_id) for option_id, prompt in self._options))

    def on_mount(self) -> None:
        ids = [option_id for option_id, _ in self._options]
        self.query_one(OptionList).highlighted = ids.index(self._chosen) if self._chosen in ids else 0

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option.id)

    def action_close(self) -> None:
        self.dismiss(None)
