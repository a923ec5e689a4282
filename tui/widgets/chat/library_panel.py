"""The conversations, with what can be done to them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from textual import work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message

from tui.chat import export
from tui.chat.library import Library
from tui.chat.session import Session
from tui.chat.store import StoreError
from tui.figures import printable
from tui.widgets.chat.conversations import ConversationList
from tui.widgets.chat.dialogs import AskText, Refused
from tui.widgets.confirm import Confirm, is_confirmed


class LibraryPanel(Vertical):
    """What is done is done to the conversation under the cursor, or to the open one if the cursor is elsewhere."""

    DEFAULT_CSS = """
    LibraryPanel { width: 34; max-width: 50%; border-right: solid $panel-lighten-2; display: none; }
    LibraryPanel.-open { display: block; }
    """

    class Opened(Message):
        """It is to be shown."""

        def __init__(self, session: Session) -> None:
            super().__init__()
            self.session = session

    class Deleted(Message):
        def __init__(self, conversation_id: str) -> None:
            super().__init__()
            self.conversation_id = conversation_id

    def __init__(self, library: Library) -> None:
        super().__init__()
        self._library = library
        self._current = ""
        self._told: set[str] = set()

    def compose(self) -> ComposeResult:
        yield ConversationList()

    def show(self, current: str) -> None:
        """What is on the disk by now; ``current`` is the conversation that is open."""
        self._current = current
        self._show()

    @work(exclusive=True, group="list")
    async def _show(self) -> None:
        try:
            summaries = await self._library.summaries()
        except StoreError as error:
            self._tell(str(error))
            return
        if not self.screen.display:  # the app is being closed
            return
        self.query_one(ConversationList).show(summaries, self._current)
        for note in self._library.store.notes:
            self._tell(note)

    def _tell(self, problem: str) -> None:
        """Once."""
        if problem not in self._told:
            self._told.add(problem)
            self.notify(problem, severity="warning", markup=False)

    @work
    async def on_conversation_list_chosen(self, message: ConversationList.Chosen) -> None:
        try:
            self.post_message(self.Opened(await self._library.open(message.conversation_id)))
        except StoreError as error:
            self.notify(str(error), severity="error", markup=False)
            self._show()

    @work
    async def rename(self) -> None:
        session = await self._meant()
        if session is None:
            return

        async def do(title: str) -> None:
            try:
                await self._library.rename(session.conversation.id, title)
            except StoreError as error:
                raise Refused(str(error)) from None
            self._show()

        self.app.push_screen(AskText("Rename the conversation", session.conversation.shown_title, do))

    @work
    async def export(self) -> None:
        session = await self._meant()
        if session is None:
            return

        async def do(path: str) -> None:
            try:
                written = await asyncio.to_thread(export.export, session.conversation, path)
            except export.ExportRefused as error:
                raise Refused(str(error)) from None
            self.notify(f"Saved as {written}.", markup=False)

        suggested = str(Path("~") / export.suggested_name(session.conversation))
        self.app.push_screen(AskText("Save as (.md: what is shown, .json: all of it)", suggested, do))

    @work
    async def delete(self) -> None:
        session = await self._meant()
        if session is None:
            return
        title = printable(session.conversation.shown_title)
        question = Confirm(f"Delete this conversation? {title}", "It can't be brought back.", action="Delete")
        if not await is_confirmed(self.screen, question):
            return
        try:
            await self._library.delete(session.conversation.id)
        except StoreError as error:
            self.notify(str(error), severity="error", markup=False)
            return
        self.post_message(self.Deleted(session.conversation.id))
        self._show()

    async def _meant(self) -> Session | None:
        wanted = self.query_one(ConversationList).highlighted or self._current
        try:
            return await self._library.open(wanted)
        except StoreError as error:
            self.notify(str(error), severity="error", markup=False)
            return None
