"""The conversations that are open, and their files, without holding up the screen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import time

from tui.chat.conversation import Conversation
from tui.chat.session import Session
from tui.chat.store import ConversationStore, StoreError, Summary, to_json


class Library:
    """One thread at a time is at the disk. All methods but ``new`` and ``save_now`` raise StoreError."""

    def __init__(self, store: ConversationStore, clock: Callable[[], float] = time) -> None:
        self.store = store
        self._clock = clock
        self._open: dict[str, Session] = {}
        self._deleted: set[str] = set()
        self._lock = asyncio.Lock()

    def new(self, like: Conversation | None = None) -> Session:
        """An empty one, set up as ``like``."""
        now = self._clock()
        conversation = Conversation(created_s=now, changed_s=now)
        if like is not None:
            conversation.model, conversation.system = like.model, like.system
            conversation.sampling = dict(like.sampling)
        return self._keep(Session(conversation, self._clock))

    async def open(self, conversation_id: str) -> Session:
        """The one that is open already, or that of the disk."""
        if (session := self._open.get(conversation_id)) is not None:
            return session
        async with self._lock:
            conversation = await asyncio.to_thread(self.store.load, conversation_id)
        return self._keep(Session(conversation, self._clock))

    def close(self, session: Session) -> None:
        """Unless an answer is being given in it, it is read from the disk the next time."""
        if session.turn is None:
            self._open.pop(session.conversation.id, None)

    async def save(self, session: Session) -> None:
        """Nothing is written of a conversation in which nothing was typed."""
        conversation = session.conversation
        async with self._lock:
            if not self._is_kept(conversation):
                return
            # The conversation may change while a thread works: it gets text, and never the conversation.
            theirs = await asyncio.to_thread(self.store.changed_elsewhere, conversation.id)
            if theirs is not None:
                conversation.merge(theirs)
            await asyncio.to_thread(self.store.write, conversation.id, to_json(conversation))

    def save_now(self) -> list[str]:
        """All that are open, before the end; returns what went wrong."""
        problems = []
        for session in self._open.values():
            if self._is_kept(session.conversation):
                try:
                    self.store.save(session.conversation)
                except StoreError as error:
                    problems.append(str(error))
        return problems

    async def rename(self, conversation_id: str, title: str) -> None:
        """An empty title: the beginning of what was asked first."""
        session = self._open.get(conversation_id)
        if session is not None:
            session.conversation.title = title.strip()
            await self.save(session)
        else:
            async with self._lock:
                await asyncio.to_thread(self.store.rename, conversation_id, title)

    async def delete(self, conversation_id: str) -> None:
        self._open.pop(conversation_id, None)
        self._deleted.add(conversation_id)  # an answer may still be coming in it
        async with self._lock:
            await asyncio.to_thread(self.store.delete, conversation_id)

    async def summaries(self) -> list[Summary]:
        """Of all that are on the disk, the latest first."""
        async with self._lock:
            return await asyncio.to_thread(self.store.summaries)

    def _keep(self, session: Session) -> Session:
        self._open[session.conversation.id] = session
        return session

    def _is_kept(self, conversation: Conversation) -> bool:
        has_something = bool(conversation.messages or conversation.draft.strip() or conversation.title)
        return has_something and conversation.id not in self._deleted
