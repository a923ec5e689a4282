"""What the transcript is given: messages, and what is to be said of them."""

from __future__ import annotations

from dataclasses import dataclass

from tui.chat.conversation import Answer, Question
from tui.chat.models import model_asked
from tui.chat.session import Session
from tui.chat.turn import Turn
from tui.chat.waiting import waiting_text
from tui.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Shown:
    """A message, which of how many in its place it is, and what is said while nothing has come of it."""

    message: Question | Answer
    place: int = 1
    of: int = 1
    waiting: str = ""


def shown_messages(session: Session, snapshot: Snapshot) -> list[Shown]:
    """All that are to be seen, from the first to the last."""
    return [shown_message(session, message, snapshot) for message in session.messages]


def shown_message(session: Session, message: Question | Answer, snapshot: Snapshot) -> Shown:
    siblings = session.conversation.siblings(message)
    turn = session.turn
    waiting = waiting_for(turn, snapshot) if turn is not None and turn.answer is message else ""
    return Shown(message, siblings.index(message) + 1, len(siblings), waiting)


def waiting_for(turn: Turn, snapshot: Snapshot) -> str:
    """What is said until something comes; empty from then on."""
    if not turn.answer.is_empty:
        return ""
    requests = snapshot.requests.requests if snapshot.requests is not None else []
    request = next((r for r in requests if r.request_id == turn.request_id), None)
    return waiting_text(turn, model_asked(snapshot, turn.answer.model or None), request)
