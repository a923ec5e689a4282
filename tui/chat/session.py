"""A conversation that is open: what is being answered in it, and where the next question goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tui.chat.conversation import ROOT, Answer, Attachment, Conversation, Question
from tui.chat.turn import Turn


@dataclass(frozen=True, slots=True)
class Placed:
    """The next question will stand below ``parent``, beside what is there. ``edited`` is what it was made of."""

    parent: str
    edited: Question | None = None


@dataclass
class Session:
    """``turn`` is the answer that is being given; ``placed`` None: the next question follows the last answer.

    ``clock`` is the wall clock's.
    """

    conversation: Conversation
    clock: Callable[[], float]
    turn: Turn | None = None
    placed: Placed | None = None
    attachments: list[Attachment] = field(default_factory=list)

    @property
    def messages(self) -> list[Question | Answer]:
        """What is shown: without what the next question will stand beside."""
        if self.placed is None:
            return self.conversation.path
        return self.conversation.path_to(self.placed.parent)

    def ask(self, text: str) -> Turn:
        """Adds the question and an answer to be filled. To send unchanged what failed asks the same question again."""
        placed, attachments = self.placed or self._unanswered(), self.attachments
        self.placed, self.attachments = None, []
        if placed is not None and placed.edited is not None:
            edited = placed.edited
            if (edited.text, edited.attachments) == (text, attachments):
                return self.answer(edited)
        question = Question(
            parent=placed.parent if placed is not None else self._end(),
            created_s=self.clock(),
            text=text,
            attachments=attachments,
        )
        self.conversation.add(question)
        return self.answer(question)

    def answer(self, question: Question) -> Turn:
        """An answer to be filled; one in which nothing had come makes way for it, others stay beside it."""
        self.placed = None
        for other in list(self.conversation.messages):
            if isinstance(other, Answer) and other.parent == question.id and self._is_nothing(other):
                self.conversation.drop(other)
        model = self.conversation.model or ""
        answer = Answer(parent=question.id, created_s=self.clock(), model=model)
        self.conversation.add(answer)
        self.turn = Turn(answer)
        self.conversation.changed_s = self.clock()
        return self.turn

    def edit(self, question: Question) -> str:
        """The next question takes this one's place; returns its text. Its attachments go with it."""
        self.placed = Placed(question.parent, question)
        self.attachments = list(question.attachments)
        return question.text

    def branch(self, answer: Answer) -> None:
        """The next question follows this answer, beside what followed it so far."""
        self.placed = Placed(answer.id)

    def leave(self) -> None:
        """The next question follows the last answer again."""
        if self.placed is not None and self.placed.edited is not None:
            self.attachments = []
        self.placed = None

    def end(self, turn: Turn) -> str:
        """The turn is over. Returns what was asked if nothing came of it, to be typed anew; else an empty text."""
        self.conversation.changed_s = self.clock()
        if self.turn is turn:
            self.turn = None
        if not self._is_nothing(turn.answer) or self.placed is not None or self.attachments:
            return ""
        question = self.conversation.find(turn.answer.parent)
        assert isinstance(question, Question)
        self.attachments = list(question.attachments)
        return question.text

    def _unanswered(self) -> Placed | None:
        """Where the last question stands, if nothing came of it."""
        path = self.conversation.path
        if len(path) < 2 or not isinstance(last := path[-1], Answer) or not self._is_nothing(last):
            return None
        question = path[-2]
        assert isinstance(question, Question)
        return Placed(question.parent, question)

    def _end(self) -> str:
        path = self.conversation.path
        while path and isinstance(path[-1], Question):  # its answer was dropped, or never began
            path.pop()
        return path[-1].id if path else ROOT

    def _is_nothing(self, answer: Answer) -> bool:
        is_replied_to = any(message.parent == answer.id for message in self.conversation.messages)
        return answer.is_empty and answer.outcome in ("failed", "stopped") and not is_replied_to
