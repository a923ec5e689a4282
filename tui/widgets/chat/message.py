"""What questions and answers in the conversation have in common."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message as Event
from textual.style import Style
from textual.widgets import Static

from tui.chat.conversation import Answer, Question
from tui.widgets.chat.shown import Shown


class MessageView(Vertical, can_focus=True):
    """``shown`` is what it was given last. Parts that few messages have are made when they are wanted."""

    DEFAULT_CSS = """
    MessageView { height: auto; padding: 0 1 0 2; margin-bottom: 1; }
    MessageView:focus { outline-left: thick $accent; }
    """
    WHO_STYLE: ClassVar[str] = ""

    class Switched(Event):
        """Another message in this one's place is wanted."""

        def __init__(self, message_id: str, step: int) -> None:
            super().__init__()
            self.message_id = message_id
            self.step = step

    def __init__(self, message: Shown) -> None:
        super().__init__()
        self.shown = message

    @property
    def message(self) -> Question | Answer:
        return self.shown.message

    def compose(self) -> ComposeResult:
        yield _Head()
        yield from self.compose_body()

    def compose_body(self) -> ComposeResult:
        raise NotImplementedError

    async def on_mount(self) -> None:
        await self.show(self.shown)

    async def show(self, message: Shown) -> None:
        """Brings what has changed up to date."""
        self.shown = message
        who = Content.styled(self.who(), f"bold {self.WHO_STYLE}")
        self.query_one(_Head).say(who if message.of == 1 else Content.assemble(who, *_places(message)))

    def who(self) -> str:
        raise NotImplementedError


class Line(Static):
    """Takes markup for text, and costs nothing when it says the same again: an update lays out the whole screen."""

    def __init__(self, classes: str | None = None) -> None:
        super().__init__(markup=False, classes=classes)

    def say(self, content: Content) -> None:
        if content != self.content:
            self.update(content)


class _Head(Line):
    """Whose it is, and where one gets to what else was in its place."""

    def action_step(self, step: int) -> None:
        view = next(node for node in self.ancestors if isinstance(node, MessageView))
        view.post_message(MessageView.Switched(view.message.id, step))


def _places(message: Shown) -> list[tuple[str, Style]]:
    before, after = (Style.from_meta({"@click": f"step({step})"}) for step in (-1, 1))
    return [("   < ", before), (f"{message.place}/{message.of}", Style()), (" > ", after)]
