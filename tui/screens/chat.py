"""Talk to a model."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widget import Widget

from tui.chat.conversation import Answer, Question
from tui.chat.figures import context_use
from tui.chat.library import Library
from tui.chat.models import ModelInfo, model_asked
from tui.chat.session import Session
from tui.chat.store import ConversationStore, StoreError, default_folder
from tui.chat.turn import Turn, request_body
from tui.screens.chat_keys import KEYS
from tui.screens.section import Section
from tui.snapshot import Part, Snapshot
from tui.widgets.chat.composer import Composer
from tui.widgets.chat.library_panel import LibraryPanel
from tui.widgets.chat.message import MessageView
from tui.widgets.chat.model_picker import model_picker
from tui.widgets.chat.question_box import QuestionBox
from tui.widgets.chat.settings import SettingsDrawer
from tui.widgets.chat.shown import shown_message, shown_messages, waiting_for
from tui.widgets.chat.status_line import StatusLine
from tui.widgets.chat.transcript import Transcript

# Text is drawn no more often than this, whatever comes.
REFRESH_S = 0.25
# While an answer comes, so much of it may be lost if this program is killed.
SAVE_S = 2.0
# Narrower screens have room for one panel beside the conversation.
WIDE_CELLS = 120
HINT = (
    "Nothing was said yet.\n\n"
    "Enter sends, Ctrl+J begins a new line, Esc stops an answer.\n"
    "Ctrl+T chooses the model, Ctrl+S shows the system prompt and sampling, Ctrl+L the conversations.\n"
    "Up goes to the messages: there e edits, r asks again, b branches, c copies."
)


class ChatScreen(Section):
    """``session`` is the conversation that is shown. Answers in others go on meanwhile."""

    NAME = "chat"
    NEEDS = frozenset({Part.MODELS})
    AUTO_FOCUS = "Composer"
    DEFAULT_CSS = "ChatScreen #talk { width: 1fr; }"
    BINDINGS: ClassVar[list[BindingType]] = KEYS

    @dataclass
    class AnswerBegun(Message):
        session: Session
        turn: Turn

    @dataclass
    class AnswerEnded(Message):
        """It is complete, stopped or failed."""

        session: Session
        turn: Turn

    def __init__(self) -> None:
        super().__init__()
        self.library = Library(ConversationStore(default_folder()))
        self.session = self.library.new()
        self._drawn: tuple[int, str] | None = None
        self._saved_at_s = 0.0

    def body(self) -> ComposeResult:
        with Horizontal():
            yield LibraryPanel(self.library)
            with Vertical(id="talk"):
                yield StatusLine()
                yield Transcript(HINT)
                yield QuestionBox(self.session)
            yield SettingsDrawer()

    def on_mount(self) -> None:
        self._refreshing = self.set_interval(REFRESH_S, self._draw_turn, pause=True)
        self._save_soon = self.set_interval(SAVE_S, self._save_draft, pause=True)
        self.query_one(LibraryPanel).set_class(self.app.size.width >= WIDE_CELLS, "-open")
        self._show_session()

    def on_unmount(self) -> None:
        self.library.save_now()

    @property
    def box(self) -> QuestionBox:
        return self.query_one(QuestionBox)

    @property
    def transcript(self) -> Transcript:
        return self.query_one(Transcript)

    # What is shown

    def show(self, snapshot: Snapshot) -> None:
        model = self._model(snapshot)
        use = context_use(self.session.conversation, model.n_ctx if model is not None else None)
        self.query_one(StatusLine).show(self.session.conversation, model, use)

    def _show_session(self) -> None:
        """Another conversation is open."""
        self.query_one(SettingsDrawer).show(self.session.conversation)
        self.box.put(self.session.conversation.draft)
        self.box.enter()
        self.transcript.follow()
        self._changed()

    def _changed(self, focus: str | None = None) -> None:
        """There are other messages, or the next question goes elsewhere. ``focus``: on this message."""
        if not self.display:  # the app is being closed
            return
        self.show(self.tui.snapshot)
        self.box.show(self.session)
        self.refresh_bindings()
        self._show_messages(focus)
        self.query_one(LibraryPanel).show(self.session.conversation.id)
        if self.session.turn is not None:
            self._refreshing.resume()
        else:
            self._refreshing.pause()
        self._look_for_place()

    @work(exclusive=True, group="messages")
    async def _show_messages(self, focus: str | None) -> None:
        await self.transcript.show(shown_messages(self.session, self.tui.snapshot))
        if focus is not None:
            self.transcript.focus_on(focus)

    def _model(self, snapshot: Snapshot) -> ModelInfo | None:
        return model_asked(snapshot, self.session.conversation.model)

    def _look_for_place(self) -> None:
        """The poller looks at the requests only while one of them waits here."""
        if self.tui.section is self:
            waits = self.session.turn is not None and self.session.turn.answer.is_empty
            self.tui.poller.needs = self.NEEDS | {Part.REQUESTS} if waits else self.NEEDS

    async def _draw_turn(self) -> None:
        """What has come since, in one go."""
        turn = self.session.turn
        if turn is None or not self.display:
            return
        now = (turn.version, waiting_for(turn, self.tui.snapshot))
        if now != self._drawn:
            self._drawn = now
            await self.transcript.update(shown_message(self.session, turn.answer, self.tui.snapshot))
        self._look_for_place()
        now_s = asyncio.get_running_loop().time()
        if now_s - self._saved_at_s > SAVE_S:
            self._saved_at_s = now_s
            self._save(self.session)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "stop":  # is there something to stop or to leave?
            return bool(self.session.turn or self.session.placed or not isinstance(self.focused, Composer))
        return True

    # Asking

    def on_composer_submitted(self, message: Composer.Submitted) -> None:
        text = message.text.strip("\n")
        if self.session.turn is not None:
            self.notify("An answer is being given; Esc stops it.", severity="warning")
        elif (problem := self.query_one(SettingsDrawer).problem) is not None:
            self.notify(problem, title="Nothing was sent", severity="error", markup=False)
        elif text.strip() or self.session.attachments:
            self._begin(self.session.ask(text))
            self.box.put("")

    def _begin(self, turn: Turn) -> None:
        session = self.session
        session.conversation.draft = ""
        if (model := self._model(self.tui.snapshot)) is not None:
            turn.answer.model = model.name
        self.transcript.follow()
        self._save(session)
        self.run_worker(self._answer(session, turn), group=session.conversation.id, exclusive=True)
        self.post_message(self.AnswerBegun(session, turn))
        self._changed()

    async def _answer(self, session: Session, turn: Turn) -> None:
        question = session.conversation.find(turn.answer.parent)
        assert isinstance(question, Question)
        try:
            await turn.run(self.tui.server, request_body(session.conversation, question))
        finally:
            self.post_message(self.AnswerEnded(session, turn))

    def on_chat_screen_answer_ended(self, message: AnswerEnded) -> None:
        """What was asked in vain goes back to where it was typed, unless something else is there by now."""
        session = message.session
        is_shown = session is self.session and self.display
        again = session.end(message.turn)
        if again and not (self.box.text if is_shown else session.conversation.draft):
            session.conversation.draft = again
            if is_shown:
                self.box.put(again)
        self._save(session)
        if is_shown:
            self._changed()
        else:
            self.library.close(session)

    def action_stop(self) -> None:
        if self.session.turn is not None:
            self.workers.cancel_group(self, self.session.conversation.id)
        elif self.session.placed is not None:
            self.session.leave()
            self.box.put(self.session.conversation.draft)
            self._changed()
        self.box.enter()

    def on_composer_typed(self, message: Composer.Typed) -> None:
        """It is kept also if this program is killed. What is being edited is in the conversation already."""
        if self.session.placed is None and self.session.conversation.draft != message.text:
            self.session.conversation.draft = message.text
            self._save_soon.reset()
            self._save_soon.resume()

    def _save_draft(self) -> None:
        self._save_soon.pause()
        self._save(self.session)

    # Messages

    def _question(self) -> Question | None:
        """The one under the cursor, or that of the answer there, if something can be done with it now."""
        message = self.transcript.message
        if self.session.turn is not None:
            self.notify("An answer is being given; Esc stops it.", severity="warning")
            return None
        if isinstance(message, Answer):
            message = self.session.conversation.find(message.parent)
        return message if isinstance(message, Question) else None

    def action_retry(self) -> None:
        question = self._question()
        if question is not None:
            if self.box.text == question.text:  # it had been given back
                self.box.put("")
                self.session.attachments = []
            self._begin(self.session.answer(question))

    def action_edit(self) -> None:
        question = self._question()
        if question is not None:
            self.box.put(self.session.edit(question))
            self.box.enter()
            self._changed()

    def action_branch(self) -> None:
        message = self.transcript.message
        if isinstance(message, Question):
            self.action_edit()
        elif self._question() is not None and message is not None:
            self.session.branch(message)
            self.box.enter()
            self._changed()

    def action_switch(self, step: int) -> None:
        message = self.transcript.message
        if message is not None:
            self._switch(message, step)

    def on_message_view_switched(self, event: MessageView.Switched) -> None:
        self._switch(self.session.conversation.find(event.message_id), event.step)

    def _switch(self, message: Question | Answer, step: int) -> None:
        if self.session.turn is None and len(self.session.conversation.siblings(message)) > 1:
            there = self.session.conversation.switch(message, step)
            self._save(self.session)
            self._changed(focus=there.id)

    def action_copy(self) -> None:
        self.transcript.copy()

    def action_copy_code(self) -> None:
        self.transcript.copy_code()

    def action_page(self, step: int) -> None:
        self.transcript.scroll_relative(y=step * (self.transcript.size.height - 1), animate=False)

    def on_composer_left_upwards(self) -> None:
        last = self.transcript.message
        if last is not None:
            self.transcript.focus_on(last.id)

    def action_attach(self) -> None:
        self.box.attach()

    def action_detach(self) -> None:
        self.box.detach()

    # Settings

    @work
    async def action_pick_model(self) -> None:
        session = self.session
        chosen = await self.app.push_screen_wait(model_picker(self.tui.snapshot, session.conversation.model))
        if chosen is not None:
            session.conversation.model = chosen or None
            self._save(session)
            self._changed()

    def action_settings(self) -> None:
        self._toggle(self.query_one(SettingsDrawer), self.query_one(LibraryPanel))

    def on_settings_drawer_changed(self, message: SettingsDrawer.Changed) -> None:
        conversation = self.session.conversation
        conversation.system, conversation.sampling = message.system, message.sampling
        self.show(self.tui.snapshot)

    def _toggle(self, panel: Widget, other: Widget) -> None:
        """Opens and enters it; from inside, closes it. Narrow screens have room for one."""
        if self.focused is not None and panel in self.focused.ancestors:
            self.box.enter()
            panel.remove_class("-open")
            return
        panel.add_class("-open")
        if self.app.size.width < WIDE_CELLS:
            other.remove_class("-open")
        self.call_after_refresh(lambda: panel.query("Input, TextArea").first().focus())

    # Conversations

    def action_list(self) -> None:
        self._toggle(self.query_one(LibraryPanel), self.query_one(SettingsDrawer))

    def action_new(self) -> None:
        self._open(self.library.new(self.session.conversation))

    def on_library_panel_opened(self, message: LibraryPanel.Opened) -> None:
        self._open(message.session)
        self.box.enter()
        if self.app.size.width < WIDE_CELLS:
            self.query_one(LibraryPanel).remove_class("-open")

    def on_library_panel_deleted(self, message: LibraryPanel.Deleted) -> None:
        self.workers.cancel_group(self, message.conversation_id)
        if message.conversation_id == self.session.conversation.id:
            self.session = self.library.new(self.session.conversation)
            self._show_session()

    def _open(self, session: Session) -> None:
        if session is not self.session:
            self._save(self.session)
            left, self.session = self.session, session
            left.leave()
            self.library.close(left)
            self._show_session()

    def action_rename(self) -> None:
        self.query_one(LibraryPanel).rename()

    def action_export(self) -> None:
        self.query_one(LibraryPanel).export()

    def action_delete(self) -> None:
        self.query_one(LibraryPanel).delete()

    def action_compare(self) -> None:
        from tui.screens.compare import CompareScreen  # loaded when it is first wanted

        self.app.push_screen(CompareScreen(self.box.text, self.session.conversation))

    @work(group="save")
    async def _save(self, session: Session) -> None:
        try:
            await self.library.save(session)
        except StoreError as error:
            self.notify(str(error), severity="error", markup=False)
