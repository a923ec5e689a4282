"""Conversations on this machine's disk, one JSON file each.

Files are written whole under another name and then renamed. One that can't be read is set aside and never stops the
start; one of a newer version is left alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tui.chat.conversation import Answer, Conversation, Question

VERSION = 1
DAMAGED_SUFFIX = ".damaged"
_ID = re.compile(r"[0-9a-f]{16}")


class StoreError(Exception):
    """What went wrong with the disk, as one sentence for people."""


class Damaged(StoreError):
    """The file was no conversation. It is set aside now."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What the list shows of a conversation. ``words`` is what is searched."""

    id: str
    title: str
    changed_s: float
    n_messages: int
    words: str


@dataclass(frozen=True, slots=True)
class _State:
    """Of a file, by which a change is noticed."""

    mtime_ns: int
    n_bytes: int


def default_folder() -> Path:
    """In $XDG_DATA_HOME, if that is absolute, as its specification wants."""
    data = Path(os.environ.get("XDG_DATA_HOME") or "")
    if not data.is_absolute():
        data = Path.home() / ".local" / "share"
    return data / "llm-appliance" / "conversations"


class ConversationStore:
    """All methods touch the disk; call them from one thread at a time.

    ``notes`` are sentences for people about files that could not be read when they were listed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self._summaries: dict[str, tuple[_State, Summary]] = {}
        self._seen: dict[str, _State] = {}

    def summaries(self) -> list[Summary]:
        """Of all conversations, the latest first. Raises StoreError."""
        try:
            paths = sorted(self.folder.glob("*.json")) if self.folder.is_dir() else []
        except OSError as error:
            raise self._failed("be read", error) from None
        found = {path.stem: summary for path in paths if (summary := self._summary(path)) is not None}
        self._summaries = {name: kept for name, kept in self._summaries.items() if name in found}
        return sorted(found.values(), key=lambda summary: summary.changed_s, reverse=True)

    def load(self, conversation_id: str) -> Conversation:
        """Raises StoreError."""
        path = self._path(conversation_id)
        state = _state(path)
        conversation = self._read(path)
        if state is not None:
            self._seen[conversation_id] = state
        return conversation

    def save(self, conversation: Conversation) -> None:
        """Messages that another terminal has added meanwhile are kept, and taken over. Raises StoreError."""
        theirs = self.changed_elsewhere(conversation.id)
        if theirs is not None:
            conversation.merge(theirs)
        self.write(conversation.id, to_json(conversation))

    def changed_elsewhere(self, conversation_id: str) -> Conversation | None:
        """What is on the disk, if that isn't what was read or written here last. Raises StoreError."""
        path = self._path(conversation_id)
        now = _state(path)
        if now is None or now == self._seen.get(conversation_id):
            return None
        try:
            return self._read(path)
        except Damaged:
            return None

    def write(self, conversation_id: str, text: str) -> None:
        """Raises StoreError."""
        path = self._path(conversation_id)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(
                os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8", errors="replace"
            ) as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            raise self._failed("be written", error) from None
        if (state := _state(path)) is not None:
            self._seen[conversation_id] = state

    def delete(self, conversation_id: str) -> None:
        """Raises StoreError."""
        try:
            self._path(conversation_id).unlink(missing_ok=True)
        except OSError as error:
            raise self._failed("be deleted", error) from None

    def rename(self, conversation_id: str, title: str) -> Conversation:
        """An empty title: that of what was asked first. Raises StoreError."""
        conversation = self.load(conversation_id)
        conversation.title = title.strip()
        self.save(conversation)
        return conversation

    def _summary(self, path: Path) -> Summary | None:
        state = _state(path)
        if state is None or not _ID.fullmatch(path.stem):
            return None
        if (kept := self._summaries.get(path.stem)) is not None and kept[0] == state:
            return kept[1]
        try:
            conversation = self._read(path)
        except StoreError as error:
            if str(error) not in self.notes:
                self.notes.append(str(error))
            return None
        summary = _summary_of(conversation)
        self._summaries[path.stem] = (state, summary)
        return summary

    def _read(self, path: Path) -> Conversation:
        """Raises StoreError, or Damaged."""
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            raise StoreError("This conversation is not there any more.") from None
        except OSError as error:
            raise StoreError(f"The conversation {path} can't be read: {error.strerror}.") from None
        try:
            conversation = from_json(text)
        except NewerVersion:
            message = f"The conversation {path.name} was written by a newer version, and is left alone."
            raise StoreError(message) from None
        except (ValueError, RecursionError):
            raise self._set_aside(path) from None
        conversation.id = path.stem  # copied by hand, it may say otherwise: to save it must not change another one
        return conversation

    def _set_aside(self, path: Path) -> Damaged:
        aside = path.with_suffix(DAMAGED_SUFFIX)
        number = 1
        while aside.exists():
            number += 1
            aside = path.with_suffix(f".{number}{DAMAGED_SUFFIX}")
        with contextlib.suppress(OSError):
            path.rename(aside)
        return Damaged(f"The conversation {path.name} is damaged; it was set aside as {aside.name}.")

    def _path(self, conversation_id: str) -> Path:
        return self.folder / f"{conversation_id}.json"

    def _failed(self, what: str, error: OSError) -> StoreError:
        return StoreError(f"Conversations in {self.folder} can't {what}: {error.strerror or error}.")


class NewerVersion(ValueError):
    """A file that this version must not change, since it would lose what it doesn't know."""


def to_json(conversation: Conversation) -> str:
    """The file's text: also what is exported as JSON."""
    body = {"version": VERSION, **conversation.model_dump(mode="json")}
    return json.dumps(body, ensure_ascii=False, indent=1) + "\n"


def from_json(text: str | bytes) -> Conversation:
    """Raises ValueError, or NewerVersion."""
    body: Any = json.loads(text)
    version = body.get("version") if isinstance(body, dict) else None
    if not isinstance(version, int):
        raise ValueError("this is no conversation")
    if version > VERSION:
        raise NewerVersion(f"version {version}")
    conversation = Conversation.model_validate(body)
    for message in conversation.messages:
        if isinstance(message, Answer) and message.outcome == "running":
            message.outcome = "stopped"  # whoever asked was killed
    return conversation


def matching(summaries: list[Summary], wanted: str) -> list[Summary]:
    """Those whose title or texts hold all the words."""
    words = wanted.casefold().split()
    return [summary for summary in summaries if all(word in summary.words for word in words)]


def _summary_of(conversation: Conversation) -> Summary:
    texts = [conversation.shown_title, conversation.system]
    for message in conversation.messages:
        texts.append(message.text)
        if isinstance(message, Question):
            texts += [f"{attachment.name}\n{attachment.text}" for attachment in message.attachments]
    words = "\n".join(texts).casefold()
    n_messages = len(conversation.path)
    return Summary(conversation.id, conversation.shown_title, conversation.changed_s, n_messages, words)


def _state(path: Path) -> _State | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return _State(found.st_mtime_ns, found.st_size)
