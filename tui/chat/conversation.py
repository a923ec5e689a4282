"""A conversation: a tree of questions and answers, in which nothing is overwritten.

To ask again, to edit a question and to branch all add a sibling; ``chosen`` says which of them is followed.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

MAX_TITLE_CHARS = 60
UNTITLED = "New conversation"
# The parent of the first questions, in ``chosen``.
ROOT = ""

Outcome = Literal["running", "complete", "stopped", "failed"]


class Attachment(BaseModel):
    """A text file that goes with a question."""

    name: str
    text: str


class ToolCall(BaseModel):
    """``arguments`` are JSON, if the model has written it as it should."""

    name: str = ""
    arguments: str = ""


class Figures(BaseModel):
    """What an answer took, in all ``seconds``. ``cache`` is what X-Cache said. None: not known, such as after an answer
    was stopped."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    ttft_s: float | None = None
    tokens_per_s: float | None = None
    seconds: float | None = None
    cache: str | None = None
    cache_age_s: float | None = None

    @property
    def context_tokens(self) -> int | None:
        """What the conversation holds of the context, up to the end of this answer."""
        return None if self.prompt_tokens is None else self.prompt_tokens + (self.completion_tokens or 0)


class Question(BaseModel):
    kind: Literal["question"] = "question"
    id: str = Field(default_factory=lambda: secrets.token_hex(8))
    parent: str = ROOT
    created_s: float
    text: str
    attachments: list[Attachment] = []

    @property
    def content(self) -> str:
        """What the model is given."""
        return "\n\n".join([*([self.text] if self.text else []), *map(_fenced, self.attachments)])


class Answer(BaseModel):
    """``model`` is what was asked for, and what answered once that is known. ``problem`` says why it failed."""

    kind: Literal["answer"] = "answer"
    id: str = Field(default_factory=lambda: secrets.token_hex(8))
    parent: str
    created_s: float
    model: str = ""
    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = []
    outcome: Outcome = "running"
    problem: str | None = None
    finish_reason: str | None = None
    figures: Figures = Figures()

    @property
    def is_empty(self) -> bool:
        return not (self.text or self.reasoning or self.tool_calls)


Message = Annotated[Question | Answer, Field(discriminator="kind")]


class Conversation(BaseModel):
    """``model`` None: the server's default. ``draft`` is what was typed and not sent."""

    id: str = Field(default_factory=lambda: secrets.token_hex(8))
    title: str = ""
    created_s: float
    changed_s: float
    model: str | None = None
    system: str = ""
    sampling: dict[str, int | float] = {}
    draft: str = ""
    messages: list[Message] = []
    chosen: dict[str, str] = {}

    @model_validator(mode="after")
    def _is_a_tree(self) -> Conversation:
        """A file may say anything: what isn't a tree would never end, or lose messages."""
        by_id = {message.id: message for message in self.messages}
        if len(by_id) < len(self.messages):
            raise ValueError("two messages have the same id")
        for message in self.messages:
            parent = by_id.get(message.parent)
            if isinstance(message, Answer) != isinstance(parent, Question):
                raise ValueError(f"{message.id} stands in the wrong place")
            if parent is None and message.parent != ROOT:
                raise ValueError(f"{message.id} follows a message that is not there")
        return self

    @property
    def shown_title(self) -> str:
        """Its own, or the beginning of what was asked first."""
        if self.title:
            return self.title
        for message in self.messages:
            if isinstance(message, Question):
                names = (attachment.name for attachment in message.attachments)
                line = next((line.strip() for line in (*message.text.splitlines(), *names) if line.strip()), "")
                return line if len(line) <= MAX_TITLE_CHARS else line[: MAX_TITLE_CHARS - 1].rstrip() + "…"
        return UNTITLED

    @property
    def path(self) -> list[Question | Answer]:
        """The messages that are followed, from the first to the last."""
        found: list[Question | Answer] = []
        children = self._children()
        at = ROOT
        while siblings := children.get(at):
            wanted = self.chosen.get(at)
            message = next((message for message in siblings if message.id == wanted), siblings[-1])
            found.append(message)
            at = message.id
        return found

    def find(self, message_id: str) -> Question | Answer:
        """Raises KeyError."""
        for message in self.messages:
            if message.id == message_id:
                return message
        raise KeyError(message_id)

    def path_to(self, message_id: str) -> list[Question | Answer]:
        """The messages from the first to this one; none for ROOT."""
        found: list[Question | Answer] = []
        at = message_id
        while at != ROOT:
            message = self.find(at)
            found.append(message)
            at = message.parent
        return found[::-1]

    def add(self, message: Question | Answer) -> None:
        """It is followed from now on."""
        self.messages.append(message)
        self.chosen[message.parent] = message.id

    def siblings(self, message: Question | Answer) -> list[Question | Answer]:
        """All that stand in the same place, itself among them, oldest first."""
        return [other for other in self.messages if other.parent == message.parent]

    def switch(self, message: Question | Answer, step: int) -> Question | Answer:
        """Follows the sibling that is ``step`` places further, round and round, and returns it."""
        siblings = self.siblings(message)
        there = siblings[(siblings.index(message) + step) % len(siblings)]
        self.chosen[message.parent] = there.id
        return there

    def drop(self, answer: Answer) -> None:
        """Removes an answer to which nobody has replied."""
        self.messages.remove(answer)
        if self.chosen.get(answer.parent) == answer.id:
            del self.chosen[answer.parent]

    def merge(self, other: Conversation) -> None:
        """Takes over the messages that only ``other`` has, a later state of the same conversation."""
        known = {message.id for message in self.messages}
        self.messages += [message for message in other.messages if message.id not in known]

    def wire_messages(self, question: Question) -> list[dict[str, Any]]:
        """What the server is asked: the system prompt, and all messages up to this question."""
        found: list[dict[str, Any]] = [{"role": "system", "content": self.system}] if self.system.strip() else []
        for message in self.path_to(question.id):
            if isinstance(message, Question):
                found.append({"role": "user", "content": message.content})
            elif not message.is_empty:
                found.append({"role": "assistant", "content": message.text})
        return found

    def _children(self) -> dict[str, list[Question | Answer]]:
        children: dict[str, list[Question | Answer]] = {}
        for message in self.messages:
            children.setdefault(message.parent, []).append(message)
        return children


def _fenced(attachment: Attachment) -> str:
    fence = "```"
    while fence in attachment.text:
        fence += "`"
    return f"File {attachment.name}:\n{fence}\n{attachment.text.rstrip()}\n{fence}"
