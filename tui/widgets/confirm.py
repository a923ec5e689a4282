"""Asks before something is done that can't be taken back, or takes long."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Button, Static


class Confirm(ModalScreen[bool]):
    """True: do it. The answer that does nothing has the focus."""

    DEFAULT_CSS = """
    Confirm { align: center middle; }
    Confirm > Vertical {
        width: auto; min-width: 40; max-width: 100%; height: auto; max-height: 100%;
        border: round $primary; background: $surface; padding: 0 1;
    }
    Confirm #question { width: auto; max-width: 100%; text-style: bold; margin-bottom: 1; }
    Confirm VerticalScroll { width: auto; max-width: 100%; height: auto; max-height: 100%; }
    Confirm #details { width: auto; max-width: 100%; }
    Confirm Horizontal { width: 100%; height: auto; margin-top: 1; align-horizontal: right; }
    Confirm Button { margin-left: 2; min-width: 12; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Do it", id="confirm.yes", tooltip="Do what is asked about."),
        Binding("n,escape", "answer(False)", "Leave it", id="confirm.no", tooltip="Do nothing."),
    ]

    def __init__(self, question: str, details: Content | str = "", *, action: str | None = "Yes") -> None:
        """``action`` is what would be done, as a verb; None: it can't be, and is only told."""
        super().__init__()
        self._question = Content(question)
        self._details = details if isinstance(details, Content) else Content(details)
        self._action = action

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(self._question, id="question")
            with VerticalScroll(can_focus=False):
                yield Static(self._details, id="details")
            with Horizontal():
                if self._action is not None:
                    yield Button(Content(f"{self._action} (y)"), variant="warning", id="yes", compact=True)
                leave = "Cancel (n)" if self._action is not None else "Close (n)"
                yield Button(Content(leave), id="no", compact=True)

    def on_mount(self) -> None:
        self.query_one("#no", Button).focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """There may be nothing to say yes to."""
        return self._action is not None or (action, *parameters) != ("answer", True)

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")


async def is_confirmed(screen: Screen[Any], question: Confirm) -> bool:
    """Called from a worker of ``screen``. If another screen is shown by now nobody is asked, and the answer is no."""
    return screen.is_current and await screen.app.push_screen_wait(question)
