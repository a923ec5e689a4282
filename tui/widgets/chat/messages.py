"""A question and an answer in the conversation, as functions of what is known of them."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Collapsible

from tui.chat.conversation import Answer, Question, ToolCall
from tui.chat.display import cut, shown
from tui.chat.figures import figures_text
from tui.figures import printable
from tui.widgets.chat.markdown import AnswerMarkdown
from tui.widgets.chat.message import Line, MessageView
from tui.widgets.chat.shown import Shown

# What is longer is cut on the screen, and only there.
MAX_QUESTION_CHARS = 4000
MAX_REASONING_CHARS = 20_000
MAX_ARGUMENT_CHARS = 2000


class QuestionView(MessageView):
    WHO_STYLE = "$text-primary"

    def who(self) -> str:
        return "You"

    def compose_body(self) -> ComposeResult:
        yield Line("text")

    async def show(self, message: Shown) -> None:
        await super().show(message)
        question = message.message
        assert isinstance(question, Question)
        lines = [cut(shown(question.text), MAX_QUESTION_CHARS)] if question.text else []
        lines += [f"[file: {printable(a.name)}, {len(a.text):,} characters]" for a in question.attachments]
        self.query_one(".text", Line).say(Content("\n".join(lines)))


class AnswerView(MessageView):
    WHO_STYLE = "$text-success"
    DEFAULT_CSS = """
    AnswerView Collapsible { border: none; padding: 0; background: transparent; }
    AnswerView Collapsible > Contents { padding: 0 0 0 2; color: $text-muted; }
    AnswerView CollapsibleTitle { padding: 0; color: $text-muted; }
    AnswerView .problem { color: $text-error; }
    AnswerView .figures { color: $text-muted; height: auto; }
    """

    def who(self) -> str:
        return printable(self._answer.model) or "Answer"

    @property
    def _answer(self) -> Answer:
        assert isinstance(self.message, Answer)
        return self.message

    def compose_body(self) -> ComposeResult:
        yield AnswerMarkdown(self._answer.text)
        yield Line("figures")

    async def show(self, message: Shown) -> None:
        await super().show(message)
        answer = self._answer
        if answer.reasoning:
            await self._show_reasoning()
        await self._show_line("calls", _calls_text(answer.tool_calls))
        await self._show_line("problem", f"X {shown(answer.problem)}" if answer.problem else "")
        line = message.waiting if answer.outcome == "running" and answer.is_empty else figures_text(answer)
        self.query_one(".figures", Line).say(Content(line))
        markdown = self.query_one(AnswerMarkdown)
        await markdown.write(answer.text)
        if answer.outcome != "running":
            await markdown.finish()

    async def _show_reasoning(self) -> None:
        answer = self._answer
        if not self.query(Collapsible):
            folded = Collapsible(Line("reasoning"))
            await self.mount(folded, before=self.query_one(AnswerMarkdown))
        folded = self.query_one(Collapsible)
        is_going_on = answer.outcome == "running" and not answer.text
        folded.title = "Reasoning ..." if is_going_on else f"Reasoning ({len(answer.reasoning):,} characters)"
        if not folded.collapsed:
            self._unfold()

    def on_collapsible_expanded(self) -> None:
        self._unfold()

    def _unfold(self) -> None:
        text = cut(shown(self._answer.reasoning.strip()), MAX_REASONING_CHARS)
        self.query_one(".reasoning", Line).say(Content(text))

    async def _show_line(self, name: str, text: str) -> None:
        if not text:
            return
        if not self.query(f".{name}"):
            await self.mount(Line(name), before=self.query_one(".figures"))
        self.query_one(f".{name}", Line).say(Content(text))


def _calls_text(calls: list[ToolCall]) -> str:
    lines = [f"-> {printable(call.name)}({cut(shown(call.arguments), MAX_ARGUMENT_CHARS)})" for call in calls]
    return "\n".join(lines)


def view_of(message: Shown) -> MessageView:
    return QuestionView(message) if isinstance(message.message, Question) else AnswerView(message)
