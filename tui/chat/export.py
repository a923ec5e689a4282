"""A conversation as a file for others: Markdown of what is followed, or JSON of the whole tree."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path

from tui.chat.conversation import Answer, Conversation, Question
from tui.chat.figures import figures_text
from tui.chat.store import to_json


class ExportRefused(Exception):
    """Why, as one sentence for people."""


def suggested_name(conversation: Conversation) -> str:
    """A file name made of the title, for Markdown."""
    name = re.sub(r"[^\w.-]+", "-", conversation.shown_title).strip("-.")
    return f"{name or 'conversation'}.md"


def export(conversation: Conversation, typed: str) -> Path:
    """Writes a new file; its ending says in which format. Returns its path, or raises ExportRefused."""
    path = Path(typed.strip()).expanduser()
    match path.suffix.lower():
        case ".md":
            text = to_markdown(conversation)
        case ".json":
            text = to_json(conversation)
        case _:
            raise ExportRefused(f"{path.name or 'The name'} must end in .md for Markdown or .json for JSON.")
    try:
        with open(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8", errors="replace"
        ) as file:
            file.write(text)
    except FileExistsError:
        raise ExportRefused(f"{path} is there already; choose another name.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ExportRefused(f"{path} can't be written: {reason}.") from None
    return path.absolute()


def to_markdown(conversation: Conversation) -> str:
    """What is on the screen, with nothing cut."""
    parts = [f"# {conversation.shown_title}"]
    parts.append(_when(conversation.created_s))
    if conversation.system.strip():
        parts.append(_quoted("System prompt: " + conversation.system.strip()))
    for message in conversation.path:
        parts += _question(message) if isinstance(message, Question) else _answer(message)
    return "\n\n".join(parts) + "\n"


def _question(question: Question) -> list[str]:
    return ["## Question", question.content]


def _answer(answer: Answer) -> list[str]:
    parts = [f"## {answer.model or 'Answer'}"]
    if answer.reasoning:
        parts.append(f"<details><summary>Reasoning</summary>\n\n{answer.reasoning.strip()}\n\n</details>")
    if answer.text.strip():
        parts.append(answer.text.strip())
    parts += [f"Tool call: `{call.name}`\n\n```json\n{call.arguments}\n```" for call in answer.tool_calls]
    if line := figures_text(answer):
        parts.append(f"*{line}*")
    return parts


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
