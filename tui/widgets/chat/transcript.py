"""The conversation, from top to bottom."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from tui.chat.conversation import Answer, Question
from tui.figures import count_text, cut, printable
from tui.widgets.chat.dialogs import Choose
from tui.widgets.chat.message import MessageView
from tui.widgets.chat.shown import Shown

if TYPE_CHECKING:
    from tui.chat.code_blocks import CodeBlock

# Each message is many widgets, and each costs at every key; earlier ones are shown when they are asked for.
MAX_SHOWN = 24
MAX_LINE_CHARS = 48


class Transcript(VerticalScroll, can_focus=False):
    """Shows what it was told last. It stays at the end, unless somebody has scrolled away from there."""

    DEFAULT_CSS = """
    Transcript { height: 1fr; padding: 0 1; scrollbar-gutter: stable; scrollbar-size-vertical: 1; }
    /* The anchor would put less than a screenful at the bottom. */
    Transcript > #messages { height: auto; min-height: 100%; }
    Transcript #earlier { display: none; color: $text-muted; text-align: center; }
    Transcript #earlier.-some { display: block; }
    Transcript #empty { display: none; color: $text-muted; margin: 1 2; }
    Transcript #empty.-some { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "step(-1)", "Message above", show=False, id="chat.up", tooltip="Go to the message above."),
        Binding("down", "step(1)", "Message below", show=False, id="chat.down", tooltip="Go to the message below."),
    ]

    def __init__(self, hint: str, id: str | None = None) -> None:  # noqa: A002
        """``hint`` stands where nothing was said yet."""
        super().__init__(id=id)
        self._hint = hint
        self._messages: list[Shown] = []
        self._max_shown = MAX_SHOWN
        self._lock = asyncio.Lock()

    def compose(self) -> ComposeResult:
        with Vertical(id="messages"):
            yield Static(self._hint, id="empty", markup=False)
            yield _Earlier(id="earlier", markup=False)

    def on_mount(self) -> None:
        self.anchor()

    @property
    def views(self) -> list[MessageView]:
        return [child for child in self.query_one("#messages").children if isinstance(child, MessageView)]

    @property
    def focused_message(self) -> Question | Answer | None:
        """That on which the cursor is, also if it is on a part of it."""
        focused = self.screen.focused
        for node in focused.ancestors_with_self if focused is not None else ():
            if isinstance(node, MessageView):
                return node.message
        return None

    @property
    def message(self) -> Question | Answer | None:
        """That on which the cursor is, or the last."""
        last = self._messages[-1].message if self._messages else None
        return self.focused_message or last

    def copy(self) -> None:
        """The whole message, whatever was cut on the screen."""
        message = self.message
        if message is not None:
            self._copy(message.content if isinstance(message, Question) else message.text)

    @work
    async def copy_code(self) -> None:
        """Asks which code block, if there are several."""
        from tui.chat.code_blocks import code_blocks

        blocks = code_blocks(self.message.text) if self.message is not None else []
        if not blocks:
            self.notify("There is no code block in this message.", severity="warning")
            return
        number: str | None = "0"
        if len(blocks) > 1:
            options = [(str(n), _block_line(block)) for n, block in enumerate(blocks)]
            number = await self.app.push_screen_wait(Choose("Copy which code block?", options, str(len(blocks) - 1)))
        if number is not None:
            self._copy(blocks[int(number)].code)

    def _copy(self, text: str) -> None:
        self.app.copy_to_clipboard(text)
        self.notify(f"{count_text(len(text), 'character')} copied, through the terminal.")

    def focus_on(self, message_id: str) -> None:
        """If it is shown."""
        for view in self.views:
            if view.message.id == message_id:
                view.focus()

    async def show(self, messages: Sequence[Shown]) -> None:
        """Messages that are there already are brought up to date and not made anew."""
        async with self._lock:
            self._messages = list(messages)
            shown = self._messages[-self._max_shown :]
            n_hidden = len(self._messages) - len(shown)
            self.query_one("#empty").set_class(not messages, "-some")
            earlier = self.query_one("#earlier", Static)
            earlier.set_class(n_hidden > 0, "-some")
            if n_hidden:
                earlier.update(f"{n_hidden} earlier messages: click, or go up from the first")
            await self._reconcile(shown)

    async def update(self, message: Shown) -> None:
        """Only this one has changed."""
        async with self._lock:
            for view in self.views:
                if view.message.id == message.message.id:
                    await view.show(message)

    async def show_earlier(self) -> None:
        self._max_shown += MAX_SHOWN
        await self.show(self._messages)

    def follow(self) -> None:
        """To the end, and with it from now on."""
        self.anchor()

    async def action_step(self, step: int) -> None:
        views = self.views
        message = self.focused_message
        at = next((n for n, view in enumerate(views) if message is view.message), len(views))
        if at + step >= 0 and at + step < len(views):
            views[at + step].focus()
        elif step < 0 and len(views) < len(self._messages):
            await self.show_earlier()
        elif step > 0:
            self.screen.focus_next("Composer")

    async def _reconcile(self, shown: Sequence[Shown]) -> None:
        from tui.widgets.chat.messages import view_of  # Markdown takes long to load, and the first screen has none

        views = {view.message.id: view for view in self.views}
        wanted = {message.message.id for message in shown}
        gone = [view for message_id, view in views.items() if message_id not in wanted]
        fresh = [message for message in shown if message.message.id not in views]
        holder = self.query_one("#messages", Vertical)
        with self.app.batch_update():
            if gone:
                await holder.remove_children(gone)
            before: MessageView | None = None
            for message in reversed(shown):  # what is new stands before what is there, or at the end
                view = views.get(message.message.id)
                if view is None:
                    view = view_of(message)
                    await holder.mount(view, before=before)
                before = view
        for message in shown:
            if message not in fresh:
                await views[message.message.id].show(message)


def _block_line(block: CodeBlock) -> Content:
    first = next((line for line in block.code.splitlines() if line.strip()), "")
    lines = count_text(block.code.count("\n"), "line")
    language = f"{printable(block.language)}, " if block.language else ""
    return Content.assemble(cut(printable(first), MAX_LINE_CHARS), (f"  {language}{lines}", "$text-muted"))


class _Earlier(Static):
    async def on_click(self) -> None:
        transcript = next(node for node in self.ancestors if isinstance(node, Transcript))
        await transcript.show_earlier()
