"""A request on its way through an engine: once more if the engine dies, never twice for whoever reads it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Sequence

from appliance import logs
from appliance.engine.client import EngineClient, EventStream
from appliance.engine.messages import Embed, Embedded, Event, Failed, Finished, Submit
from appliance.errors import (
    ENGINE_ERRORS,
    ApplianceError,
    EngineCrashed,
    EngineFailed,
    EngineStopped,
    EngineUnavailable,
    RequestCancelled,
)
from appliance.supervisor.spec import ModelSpec
from appliance.supervisor.supervisor import Supervisor

log = logging.getLogger(__name__)


class EngineRun:
    """Runs one prompt, or embeds texts, on a model's engine, waiting for that to be loaded."""

    def __init__(
        self, supervisor: Supervisor, spec: ModelSpec, submit: Submit | Embed, on_finished: Callable[[Finished], None]
    ) -> None:
        """``on_finished`` is told what the engine has computed, also for a request that nobody reads any more."""
        self.submit = submit
        # Counts how often it began: what came of an earlier beginning is to be forgotten as soon as this is raised.
        self.n_begun = 0
        self._supervisor = supervisor
        self._spec = spec
        self._on_finished = on_finished
        self._stream: EventStream | None = None
        self._waiting: asyncio.Timeout | None = None
        self._is_committed = False
        self._is_cancelled = False

    def commit(self) -> None:
        """Text has left: from now on it can't be run again."""
        self._is_committed = True

    def cancel(self) -> None:
        """Ends it with an error, whoever waits for it."""
        self._is_cancelled = True
        if self._waiting is not None:
            self._waiting.reschedule(0.0)
        if self._stream is not None:
            self._stream.close()

    async def events(self) -> AsyncGenerator[Sequence[Event], None]:
        """The request's events as they come; the last one is Finished or Embedded.

        Closing the iterator aborts the request.

        A second :class:`Accepted` means that the engine has died and the request runs again from its beginning:
        forget what came before.

        Raises:
            ApplianceError: the request was refused or failed.
        """
        may_retry = True
        while True:
            if self._is_cancelled:
                raise cancelled()
            self.n_begun += 1
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
                            if isinstance(last, Finished | Embedded):
                                self._on_finished(usage_of(last))
                            yield events
                            if isinstance(last, Finished | Embedded):
                                return
            except EngineCrashed as error:
                if self._is_cancelled:
                    raise cancelled() from None
                if self._is_committed or not may_retry:
                    raise
                may_retry = False
                log.warning(logs.event("request_replayed", request_id=self.submit.request_id, reason=error))

    async def _engine(self, stack: contextlib.AsyncExitStack) -> EngineClient:
        """The model's engine until ``stack`` is left; :meth:`cancel` ends waiting for it."""
        try:
            async with asyncio.timeout(None) as self._waiting:
                engine = await stack.enter_async_context(self._supervisor.engine(self._spec))
        except TimeoutError:
            raise cancelled() from None
        finally:
            self._waiting = None
        if self._is_cancelled:
            raise cancelled()
        return engine


def usage_of(end: Finished | Embedded) -> Finished:
    """What was computed, in a prompt's terms: texts that are embedded are prompts without answers."""
    if isinstance(end, Finished):
        return end
    n_prompt = sum(end.n_tokens)
    return Finished(end.request_id, n_prompt, n_cached=0, n_completion=0, queue_s=end.queue_s, prefill_s=end.compute_s)


def cancelled() -> RequestCancelled:
    return RequestCancelled("the request was cancelled by an administrator")


def _error_of(failed: Failed) -> ApplianceError:
    if failed.code == EngineUnavailable.code:  # it was stopped: to make room for another model, or with the server
        return EngineStopped(f"{failed.message}; try again", retry_after_s=5)
    return ENGINE_ERRORS.get(failed.code, EngineFailed)(failed.message, param=failed.param)
