"""A chat in front of a recorded server, and what such servers say; conversations to begin with."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from textual.message import Message
from textual.pilot import Pilot

from tests.gateway import Gateway
from tests.tui.recorded import RecordedServer, Stream, opened, recorded, screen_text, until
from tests.tui.sample import NOW_S
from tui.chat.conversation import ROOT, Answer, Conversation, Question
from tui.chat.store import ConversationStore, default_folder
from tui.screens.chat import ChatScreen

CHAT = "/v1/chat/completions"


def conversation(**fields: object) -> Conversation:
    return Conversation.model_validate({"created_s": NOW_S, "changed_s": NOW_S} | fields)


def ask(talk: Conversation, text: str, parent: str | None = None) -> Question:
    path = talk.path
    at = parent if parent is not None else path[-1].id if path else ROOT
    question = Question(parent=at, created_s=NOW_S, text=text)
    talk.add(question)
    return question


def reply(talk: Conversation, question: Question, text: str, **fields: object) -> Answer:
    answer = Answer.model_validate(
        {"parent": question.id, "created_s": NOW_S, "text": text, "outcome": "complete"} | fields
    )
    talk.add(answer)
    return answer


def texts(talk: Conversation) -> list[str]:
    return [message.text for message in talk.path]


def chunk(finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "model": "small", "choices": [choice], "usage": None}


def last(n_prompt: int = 20, n_completion: int = 2, n_cached: int = 4, **timings: float) -> dict[str, Any]:
    """The event that ends an answer."""
    usage = {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
        "prompt_tokens_details": {"cached_tokens": n_cached},
    }
    measured = {"queue_s": 0.0, "ttft_s": 0.25, "completion_tokens_per_s": 50.0} | timings
    return {"id": "chatcmpl-1", "model": "small", "choices": [], "usage": usage, "timings": measured}


def give(server: RecordedServer, *events: dict[str, Any] | str, headers: dict[str, str] | None = None) -> Stream:
    """From now on each request gets these events, texts as comments, and it is not ended yet."""
    stream = Stream(headers or {})
    for event in events:
        if isinstance(event, str):
            stream.comment(event)
        else:
            stream.push(event)
    server.answer("POST", CHAT, lambda asked: stream)
    return stream


@dataclass
class Talk:
    """The chat in front of a server. ``ended`` are the answers that have ended, as they were told."""

    pilot: Pilot[None]
    server: RecordedServer | Gateway
    ended: list[Answer]

    @property
    def screen(self) -> ChatScreen:
        (screen,) = (screen for screen in self.pilot.app.screen_stack if isinstance(screen, ChatScreen))
        return screen

    @property
    def text(self) -> str:
        return screen_text(self.pilot)

    @property
    def typed(self) -> str:
        return self.screen.box.text

    @property
    def path(self) -> list[Question | Answer]:
        return self.screen.session.messages

    @property
    def texts(self) -> list[str]:
        return [message.text for message in self.path]

    @property
    def bodies(self) -> list[dict[str, Any]]:
        assert isinstance(self.server, RecordedServer)
        return [asked.body for asked in self.server.of("POST", CHAT)]

    async def until(self, *words: str) -> None:
        """They are all on the screen."""
        await until(self.pilot, lambda: all(word in self.text for word in words))

    async def send(self, text: str) -> None:
        self.screen.box.put(text)
        await self.pilot.press("enter")

    async def ask(self, text: str) -> Answer:
        """To the answer's end."""
        n_before = len(self.ended)
        await self.send(text)
        return await self.end(n_before)

    async def end(self, n_before: int) -> Answer:
        await until(self.pilot, lambda: len(self.ended) > n_before and self.screen.session.turn is None)
        return self.ended[-1]

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()


@contextlib.asynccontextmanager
async def talk(server: RecordedServer, size: tuple[int, int] = (80, 24), key: str | None = None) -> AsyncIterator[Talk]:
    ended: list[Answer] = []

    def hook(message: Message) -> None:
        if isinstance(message, ChatScreen.AnswerEnded) and (not ended or message.turn.answer is not ended[-1]):
            ended.append(message.turn.answer)

    async with opened(server, "chat", size=size, key=key, hook=hook) as pilot:
        yield Talk(pilot, server, ended)


@contextlib.asynccontextmanager
async def talking(*events: dict[str, Any] | str, size: tuple[int, int] = (80, 24)) -> AsyncIterator[Talk]:
    """Each request gets these events, and is complete."""
    async with recorded() as server:
        answer_all(server, *events)
        async with talk(server, size) as found:
            yield found


def answer_all(server: RecordedServer, *events: dict[str, Any] | str) -> None:
    def answer(asked: object) -> Stream:
        stream = Stream({})
        for event in events or (chunk(content=f"Answer {len(server.of('POST', CHAT)) + 1}"), chunk("stop"), last()):
            if isinstance(event, str):
                stream.comment(event)
            else:
                stream.push(event)
        stream.end()
        return stream

    server.answer("POST", CHAT, answer)


def stored() -> ConversationStore:
    """What is on the disk, as another program sees it."""
    return ConversationStore(default_folder())
