"""A request on its way through an engine: what comes of it, once more if the engine dies, never twice."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from appliance import logs
from appliance.engine.client import EngineClient, EventStream
from appliance.engine.messages import (
    Accepted,
    Event,
    Failed,
    Finished,
    Piece,
    Progress,
    SequenceFinished,
    Submit,
    TokenLogprob,
)
from appliance.errors import (
    ENGINE_ERRORS,
    ApplianceError,
    EngineCrashed,
    EngineFailed,
    EngineStopped,
    EngineUnavailable,
    RequestCancelled,
)
from appliance.service.activity import Activity
from appliance.service.context import RequestContext
from appliance.supervisor.spec import ModelSpec
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
    """Runs one prompt. Set ``is_committed`` once text of it has left: from then on it can't be run again."""

    def __init__(
        self, supervisor: Supervisor, spec: ModelSpec, activity: Activity, context: RequestContext, submit: Submit
    ) -> None:
        self.submit = submit
        self.context = context
        self.is_committed = False
        self.state = "waiting"
        self.n_prompt = 0
        self.n_pieces = 0
        self.n_computed = 0
        self.ttft_s: float | None = None
        self._supervisor = supervisor
        self._spec = spec
        self._activity = activity
        self._stream: EventStream | None = None
        self._waiting: asyncio.Timeout | None = None
        self._last_piece_at: dict[int, float] = {}
        self._is_cancelled = False
        self._finish_reason = "stop"

    def cancel(self) -> None:
        """Ends the request with an error, whoever waits for it."""
        self._is_cancelled = True
        if self._waiting is not None:
            self._waiting.reschedule(0.0)
        if self._stream is not None:
            self._stream.close()

    async def events(self) -> AsyncGenerator[Sequence[Event], None]:
        """The request's events as they come; the last one is Finished. Closing the iterator aborts the request.

        A second :class:`Accepted` means that the engine has died and the request runs again from its beginning:
        forget what came before.

        Raises:
            ApplianceError: the request was refused or failed.
        """
        finished: Finished | None = None
        outcome = "abort"
        try:
            with self._activity.entry(self):
                async with contextlib.aclosing(self._events_with_replay()) as batches:
                    async for events in batches:
                        self._note(events)
                        last = events[-1]
                        if isinstance(last, Finished):
                            finished, outcome = last, self._finish_reason
                        yield events
        except ApplianceError as error:
            outcome = error.code or "error"
            raise
        finally:
            self._activity.ended(self, outcome, finished)

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

    async def _events_with_replay(self) -> AsyncGenerator[Sequence[Event], None]:
        may_retry = True
        while True:
            try:
                async with contextlib.AsyncExitStack() as stack:
                    engine = await self._engine(stack)
                    async with engine.submit(self.submit) as stream:
                        self._stream = stream
                        while True:
                            events = await stream.next_events()
                            last = events[-1]
                            if isinstance(last, Failed):
                                raise _error_of(last)
                            yield events
                            if isinstance(last, Finished):
                                return
            except EngineCrashed as error:
                if self._is_cancelled:
                    raise _cancelled() from None
                if self.is_committed or not may_retry:
                    raise
                may_retry = False
                log.warning(logs.event("request_replayed", request_id=self.submit.request_id, reason=error))

    async def _engine(self, stack: contextlib.AsyncExitStack) -> EngineClient:
        """The model's engine until ``stack`` is left; :meth:`cancel` ends waiting for it."""
        try:
            async with asyncio.timeout(None) as self._waiting:
                engine = await stack.enter_async_context(self._supervisor.engine(self._spec))
        except TimeoutError:
            raise _cancelled() from None
        finally:
            self._waiting = None
        if self._is_cancelled:
            raise _cancelled()
        return engine

    def _note(self, events: Sequence[Event]) -> None:
        """Keeps what the status, the log and the metrics want to know."""
        now = asyncio.get_running_loop().time()
        n_pieces = Counter(event.index for event in events if isinstance(event, Piece))
        for event in events:
            match event:
                case Piece(_, index, _, _):
                    self.n_pieces += 1
                    before = self._last_piece_at.get(index)
                    # Those that come together were computed one after the other since the last that came.
                    at = now if before is None else before + (now - before) / n_pieces[index]
                    n_pieces[index] -= 1
                    self._last_piece_at[index] = at
                    if before is not None:
                        self._activity.metrics.saw_next_token(self.context.model, at - before)
                    elif self.ttft_s is None:
                        self.state = "decode"
                        self.ttft_s = now - self.context.arrived_at
                        self._activity.metrics.saw_first_token(self.context.model, self.ttft_s)
                case Progress(_, n_computed, _):
                    self.state, self.n_computed = "prefill", n_computed
                case Accepted(_, n_prompt):
                    self.n_prompt = n_prompt
                case SequenceFinished(_, _, reason):
                    self._finish_reason = reason


def _error_of(failed: Failed) -> ApplianceError:
    if failed.code == EngineUnavailable.code:  # it was stopped: to make room for another model, or with the server
        return EngineStopped(f"{failed.message}; try again", retry_after_s=5)
    return ENGINE_ERRORS.get(failed.code, EngineFailed)(failed.message, param=failed.param)


def _cancelled() -> RequestCancelled:
    return RequestCancelled("the request was cancelled by an administrator")
