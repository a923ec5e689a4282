"""Where questions are typed."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

# A longer paste becomes an attachment: it would bury what is typed.
MAX_PASTED_CHARS = 4000
MAX_PASTED_LINES = 40
# They go to sections or scroll the conversation, here as elsewhere.
_NOT_HERE = frozenset({"f6", "f7", "pageup", "pagedown"})


class Composer(TextArea, inherit_bindings=False):
    """What is typed stays until it was sent."""

    DEFAULT_CSS = """
    Composer { height: auto; min-height: 3; max-height: 10; border: round $panel-lighten-2; padding: 0 1; }
    Composer:focus { border: round $accent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(b for b in TextArea.BINDINGS if isinstance(b, Binding) and b.key not in _NOT_HERE),
        Binding("enter", "submit", "Send", id="chat.send", tooltip="Send the question.", priority=False),
        Binding(
            "ctrl+j,shift+enter,alt+enter",
            "insert_line",
            "New line",
            id="chat.line",
            tooltip="Begin a new line in the question.",
            show=False,
        ),
    ]

    class Submitted(Message):
        """What was typed is to be sent. It is still in the input."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Typed(Message):
        """Something else stands there now."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class LongPaste(Message):
        """A text was pasted that is too long for the input; it was not put there."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class LeftUpwards(Message):
        """The cursor was moved up from the first line of an empty input."""

    def __init__(self, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id, soft_wrap=True, highlight_cursor_line=False, placeholder="Ask something; Enter sends.")
        self.cursor_blink = False  # nothing moves while nothing happens

    def action_submit(self) -> None:
        self.post_message(self.Submitted(self.text))

    def action_insert_line(self) -> None:
        self.insert("\n")
        self.scroll_cursor_visible()

    def action_cursor_up(self, select: bool = False) -> None:
        if self.text:
            super().action_cursor_up(select)
        else:
            self.post_message(self.LeftUpwards())

    def on_text_area_changed(self, event: TextArea.Changed) -> None:
        event.stop()
        self.post_message(self.Typed(self.text))

    def put(self, text: str) -> None:
        """Replaces what is there; it can be undone."""
        self.clear()
        self.insert(text)
        self.move_cursor(self.document.end)

    async def _on_key(self, event: events.Key) -> None:
        active = self.screen.active_bindings.get(event.key)
        if event.key == "enter" and active is not None and active.binding.action == "submit":
            event.prevent_default()  # the binding gets it, and not the text

    async def _on_paste(self, event: events.Paste) -> None:
        if len(event.text) > MAX_PASTED_CHARS or event.text.count("\n") > MAX_PASTED_LINES:
            event.prevent_default()
            event.stop()
            self.post_message(self.LongPaste(event.text))
