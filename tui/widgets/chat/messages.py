"""A question or an answer in the conversation, as a function of what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message as Event
from textual.widgets import Collapsible, Static

from tui.chat.conversation import Answer, Question, ToolCall
from tui.chat.display import cut, shown
from tui.chat.figures import figures_text
from tui.figures import printable
from tui.widgets.chat.markdown import AnswerMarkdown

# What is longer is cut on the screen, and only there.
MAX_QUESTION_CHARS = 4000
MAX_REASONING_CHARS = 20_000
MAX_ARGUMENT_CHARS = 2000


@dataclass(frozen=True, slots=True)
class Shown:
    """A message, which of how many in its place it is, and what is said while nothing has come of it."""

    message: Question | Answer
    place: int = 1
    of: int = 1
    waiting: str = ""


class MessageView(Vertical, can_focus=True):
    """``shown`` is what it was given last."""

    DEFAULT_CSS = """
    MessageView { height: auto; padding: 0 1 0 1; margin-bottom: 1; border-left: blank; }
    MessageView:focus { border-left: thick $accent; }
    MessageView > .head { height: 1; }
    MessageView > .head > .who { width: auto; text-style: bold; }
    MessageView > .head > .places { width: auto; display: none; }
    MessageView > .head > .places.-several { display: block; }
    MessageView .step { width: auto; padding: 0 1; }
    MessageView .step:hover { background: $boost; text-style: bold; }
    MessageView .place { width: auto; }
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
        with Horizontal(classes="head"):
            yield Static(classes="who")
            with Horizontal(classes="places"):
                yield _Step("<", -1)
                yield Static(classes="place")
                yield _Step(">", 1)
        yield from self.compose_body()

    def compose_body(self) -> ComposeResult:
        raise NotImplementedError

    async def on_mount(self) -> None:
        await self.show(self.shown)

    async def show(self, message: Shown) -> None:
        """Brings what has changed up to date."""
        self.shown = message
        self.query_one(".who", Static).update(Content.styled(self.who(), self.WHO_STYLE))
        places = self.query_one(".places")
        places.set_class(message.of > 1, "-several")
        if message.of > 1:
            self.query_one(".place", Static).update(Content(f"{message.place}/{message.of}"))

    def who(self) -> str:
        raise NotImplementedError


class QuestionView(MessageView):
    WHO_STYLE = "$text-primary"

    def who(self) -> str:
        return "You"

    def compose_body(self) -> ComposeResult:
        yield Static(classes="text", markup=False)

    async def show(self, message: Shown) -> None:
        await super().show(message)
        question = message.message
        assert isinstance(question, Question)
        lines = [cut(shown(question.text), MAX_QUESTION_CHARS)] if question.text else []
        lines += [f"[file: {printable(a.name)}, {len(a.text):,} characters]" for a in question.attachments]
        self.query_one(".text", Static).update(Content("\n".join(lines)))


class AnswerView(MessageView):
    WHO_STYLE = "$text-success"
    DEFAULT_CSS = """
    AnswerView Collapsible { border: none; padding: 0; background: transparent; display: none; }
    AnswerView Collapsible.-some { display: block; }
    AnswerView Collapsible > Contents { padding: 0 0 0 2; color: $text-muted; }
    AnswerView CollapsibleTitle { padding: 0; color: $text-muted; }
    AnswerView .calls { display: none; }
    AnswerView .calls.-some { display: block; }
    AnswerView .problem { display: none; color: $text-error; }
    AnswerView .problem.-some { display: block; }
    AnswerView .figures { color: $text-muted; height: auto; }
    """

    def who(self) -> str:
        assert isinstance(self.message, Answer)
        return printable(self.message.model) or "Answer"

    def compose_body(self) -> ComposeResult:
        assert isinstance(self.message, Answer)
        with Collapsible(title="Reasoning", collapsed=True):
            yield Static(classes="reasoning", markup=False)
        yield AnswerMarkdown(self.message.text)
        yield Static(classes="calls", markup=False)
        yield Static(classes="problem", markup=False)
        yield Static(classes="figures", markup=False)

    async def show(self, message: Shown) -> None:
        await super().show(message)
        answer = message.message
        assert isinstance(answer, Answer)
        self._show_reasoning(answer)
        self._show_line(".calls", _calls_text(answer.tool_calls))
        self._show_line(".problem", f"X {shown(answer.problem)}" if answer.problem else "")
        line = message.waiting if answer.outcome == "running" and answer.is_empty else figures_text(answer)
        self.query_one(".figures", Static).update(Content(line))
        markdown = self.query_one(AnswerMarkdown)
        await markdown.write(answer.text)
        if answer.outcome != "running":
            await markdown.finish()

    def _show_reasoning(self, answer: Answer) -> None:
        folded = self.query_one(Collapsible)
        folded.set_class(bool(answer.reasoning), "-some")
        if answer.reasoning:
            is_going_on = answer.outcome == "running" and not answer.text
            folded.title = "Reasoning ..." if is_going_on else f"Reasoning ({len(answer.reasoning):,} characters)"
            if not folded.collapsed:
                self._unfold()

    def on_collapsible_expanded(self) -> None:
        self._unfold()

    def _unfold(self) -> None:
        assert isinstance(self.message, Answer)
        text = cut(shown(self.message.reasoning.strip()), MAX_REASONING_CHARS)
        self.query_one(".reasoning", Static).update(Content(text))

    def _show_line(self, selector: str, text: str) -> None:
        line = self.query_one(selector, Static)
        line.set_class(bool(text), "-some")
        line.update(Content(text))


class _Step(Static):
    def __init__(self, sign: str, step: int) -> None:
        super().__init__(sign, classes="step", markup=False)
        self._step = step
        self.tooltip = "Show what else was here."

    def on_click(self, event: events.Click) -> None:
        event.stop()
        view = next(node for node in self.ancestors if isinstance(node, MessageView))
        view.post_message(MessageView.Switched(view.message.id, self._step))


def _calls_text(calls: list[ToolCall]) -> str:
    lines = [f"-> {printable(call.name)}({cut(shown(call.arguments), MAX_ARGUMENT_CHARS)})" for call in calls]
    return "\n".join(lines)


def view_of(message: Shown) -> MessageView:
    return QuestionView(message) if isinstance(message.message, Question) else AnswerView(message)
