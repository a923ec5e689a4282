"""The question that is being typed, and what goes with it."""

from __future__ import annotations

import asyncio

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from tui.chat import attachments
from tui.chat.conversation import Attachment
from tui.chat.session import Session
from tui.figures import printable
from tui.widgets.chat.composer import Composer
from tui.widgets.chat.dialogs import AskText, Refused


class QuestionBox(Vertical):
    """Files are attached to the session that it shows."""

    DEFAULT_CSS = """
    QuestionBox { height: auto; }
    QuestionBox > #attached { height: auto; max-height: 3; padding: 0 2; color: $text-accent; display: none; }
    QuestionBox > #attached.-some { display: block; }
    """

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def compose(self) -> ComposeResult:
        yield Static(id="attached", markup=False)
        yield Composer()

    @property
    def text(self) -> str:
        return self.query_one(Composer).text

    def put(self, text: str) -> None:
        """In place of what is typed."""
        self.query_one(Composer).put(text)

    def enter(self) -> None:
        self.query_one(Composer).focus()

    def show(self, session: Session) -> None:
        self._session = session
        placed = session.placed
        title = (
            "" if placed is None else "Edit the question" if placed.edited is not None else "Ask something else here"
        )
        self.query_one(Composer).border_title = f"{title} (Esc: leave it)" if title else ""
        names = [f"[file: {printable(a.name)}, {len(a.text):,} characters]" for a in session.attachments]
        line = self.query_one("#attached", Static)
        line.set_class(bool(names), "-some")
        line.update(Content(" ".join(names)))

    def attach(self) -> None:
        """Asks for a path."""
        self.app.push_screen(AskText("Attach a text file: its path", "", self._attach_file))

    def detach(self) -> None:
        """What was attached last."""
        if self._session.attachments:
            self._session.attachments.pop()
            self.show(self._session)

    async def _attach_file(self, typed: str) -> None:
        try:
            self._add(await asyncio.to_thread(attachments.read, typed))
        except attachments.AttachmentRefused as error:
            raise Refused(str(error)) from None

    def on_composer_long_paste(self, message: Composer.LongPaste) -> None:
        n_pasted = sum(a.name.startswith("pasted-") for a in self._session.attachments)
        try:
            self._add(attachments.pasted(message.text, n_pasted + 1))
        except attachments.AttachmentRefused as error:
            self.notify(str(error), severity="error", markup=False)

    def _add(self, attachment: Attachment) -> None:
        self._session.attachments.append(attachment)
        self.show(self._session)
