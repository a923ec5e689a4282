"""The same question to two models: what is sent, and what ``appliance models compare --json`` has written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from tui.chat.conversation import Answer, Conversation, Figures, Question

# Answers to tens of thousands of questions; a larger file is something else.
MAX_BYTES = 64 << 20


class ResultsRefused(Exception):
    """Why the file can't be shown, as one sentence for people."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A question, and what both have said."""

    question: str
    answers: tuple[Answer, Answer]

    @property
    def verdict(self) -> str:
        """Whether the answers are the same; empty while they aren't complete."""
        if any(answer.outcome != "complete" for answer in self.answers):
            return ""
        first, second = self.answers
        return "the answers are the same" if first.text == second.text else "the answers differ"


def asked(like: Conversation, model: str, text: str, now_s: float) -> tuple[Conversation, Question]:
    """A conversation of its own with one question, set up as ``like``."""
    conversation = Conversation(
        created_s=now_s, changed_s=now_s, model=model, system=like.system, sampling=dict(like.sampling)
    )
    question = Question(created_s=now_s, text=text)
    conversation.add(question)
    return conversation, question


def read_results(typed: str) -> list[Compared]:
    """At least one. Raises ResultsRefused."""
    path = Path(typed.strip()).expanduser()
    try:
        if not path.is_file():
            raise ResultsRefused(f"{path} is no file.")
        if path.stat().st_size > MAX_BYTES:
            raise ResultsRefused(f"{path.name} is larger than {MAX_BYTES >> 20} MiB.")
        rows = _ROWS.validate_json(path.read_bytes())
    except ValidationError:
        raise ResultsRefused(f"{path.name} was not written by `appliance models compare --json`.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ResultsRefused(f"{path} can't be read: {reason}.") from None
    if not rows:
        raise ResultsRefused(f"{path.name} holds no questions.")
    return [Compared(row.question, (row.a.answer("A"), row.b.answer("B"))) for row in rows]


class _Outcome(BaseModel):
    text: str
    finish_reason: str | None
    seconds: float
    ttft_s: float | None
    n_prompt: int
    n_completion: int

    def answer(self, name: str) -> Answer:
        decoding_s = self.seconds - (self.ttft_s or 0)
        figures = Figures(
            prompt_tokens=self.n_prompt,
            completion_tokens=self.n_completion,
            ttft_s=self.ttft_s,
            tokens_per_s=(self.n_completion - 1) / decoding_s if self.n_completion > 1 and decoding_s > 0 else None,
            seconds=self.seconds,
        )
        return Answer(
            parent="",
            created_s=0,
            model=name,
            text=self.text,
            outcome="complete",
            finish_reason=self.finish_reason,
            figures=figures,
        )


class _Row(BaseModel):
    messages: list[dict[str, Any]]
    a: _Outcome
    b: _Outcome

    @property
    def question(self) -> str:
        """All that was said before, and the question."""
        return "\n\n".join(_text(message.get("content")) for message in self.messages)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) if isinstance(part, dict) else str(part) for part in content)
    return "" if content is None else str(content)


_ROWS = TypeAdapter(list[_Row])
