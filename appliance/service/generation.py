"""A request on its way through an engine: what comes of it, once more if the engine dies, never twice."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from appliance import logs
from appliance.engine.messages import (
    Accepted,
    Event,
    Failed,
    Finished,
    Piece,
    SequenceFinished,
    Submit,
    TokenLogprob,
)
from appliance.errors import ENGINE_ERRORS, EngineCrashed, EngineFailed
from appliance.supervisor.supervisor import Supervisor

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Choice:
    """One of a request's ``n`` answers."""

    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    choices: tuple[Choice, ...]
    usage: Finished


class Generation:
    """Runs one request. Set ``is_committed`` once text of it has left: from then on it can't be run again."""

    def __init__(self, supervisor: Supervisor, submit: Submit) -> None:
        self.submit = submit
        self.is_committed = False
        self._supervisor = supervisor

    async def events(self) -> AsyncGenerator[Sequence[Event], None]:
        """The request's events as they come; the last one is Finished. Closing the iterator aborts the request.

        A second :class:`Accepted` means that the engine has died and the request runs again from its beginning:
        forget what came before.

        Raises:
            ApplianceError: the request was refused or failed.
        """
        may_retry = True
        while True:
            engine = await self._supervisor.engine()
            try:
                async with engine.submit(self.submit) as stream:
                    while True:
                        events = await stream.next_events()
                        last = events[-1]
                        if isinstance(last, Failed):
                            raise ENGINE_ERRORS.get(last.code, EngineFailed)(last.message)
                        yield events
                        if isinstance(last, Finished):
                            return
            except EngineCrashed:
                if self.is_committed or not may_retry:
                    raise
                may_retry = False
                log.warning(logs.event("request_replayed", request_id=self.submit.request_id))

    async def answer(self) -> Answer:
        """The whole answer. Cancelling the call aborts the request. Raises as :meth:`events`."""
        choices: tuple[Choice, ...] = ()
        async with contextlib.aclosing(self.events()) as batches:
            async for events in batches:
                for event in events:
                    match event:
                        case Accepted():
                            choices = tuple(Choice() for _ in range(self.submit.n))
                        case Piece(_, index, text, logprobs):
                            choices[index].text.append(text)
                            choices[index].logprobs += logprobs
                        case SequenceFinished(_, index, reason):
                            choices[index].finish_reason = reason
                        case Finished():
                            return Answer(choices, event)
        raise EngineFailed("the engine gave no end to the request")
