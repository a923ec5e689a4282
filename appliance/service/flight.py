"""One computation of an answer that several requests listen to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence

from appliance.engine.messages import Event, Finished
from appliance.errors import ApplianceError, EngineFailed
from appliance.service.engine_run import EngineRun, cancelled


class Flight:
    """Lives as long as somebody listens; each hears all of it from the beginning, and then as it comes."""

    def __init__(self, run: EngineRun, on_end: Callable[[Flight], None]) -> None:
        """``on_end`` is called once: when it is complete, has failed, or nobody listens any more."""
        self.error: ApplianceError | None = None
        self.is_complete = False
        self.run = run
        self._batches: list[Sequence[Event]] = []
        # Which of the run's beginnings they belong to.
        self._n_begun = 0
        self._on_end = on_end
        self._listeners: set[Listener] = set()
        self._task = asyncio.create_task(self._fly())

    @property
    def batches(self) -> Sequence[Sequence[Event]]:
        """What has come of it. One that runs again after an engine's death is heard from its new beginning: what came
        before must not leave any more, since from then on it would be told twice.
        """
        return self._batches if self._n_begun == self.run.n_begun else ()

    @property
    def has_ended(self) -> bool:
        return self.is_complete or self.error is not None

    def listen(self) -> Listener:
        listener = Listener(self)
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """The last one to leave ends it."""
        self._listeners.discard(listener)
        if not self._listeners and not self.has_ended:
            self._on_end(self)  # nobody may join any more
            self._task.cancel()

    async def _fly(self) -> None:
        try:
            async with contextlib.aclosing(self.run.events()) as batches:
                async for events in batches:
                    if self._n_begun != self.run.n_begun:
                        self._n_begun, self._batches = self.run.n_begun, []
                    self._batches.append(events)
                    self.is_complete = isinstance(events[-1], Finished)
                    self._wake()
                    if self.is_complete:
                        self._on_end(self)
        except ApplianceError as error:
            self._fail(error)
        except Exception as error:  # a fault of ours: who listens must not wait for ever
            self._fail(EngineFailed(f"an unexpected error: {error!r}"))
            raise

    def _fail(self, error: ApplianceError) -> None:
        self.error = error
        self._wake()
        self._on_end(self)

    def _wake(self) -> None:
        for listener in self._listeners:
            listener.wake()


class Listener:
    """One request's ear."""

    def __init__(self, flight: Flight) -> None:
        self._flight = flight
        self._wakeup: asyncio.Future[None] | None = None
        self._is_cancelled = False

    def commit(self) -> None:
        """Text of it has left for a client: from now on it can't begin again."""
        self._flight.run.commit()

    def cancel(self) -> None:
        """Ends this one's request with an error; the flight goes on for the others."""
        self._is_cancelled = True
        self.wake()

    def wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    async def events(self) -> AsyncGenerator[Sequence[Event], None]:
        """As those of :meth:`EngineRun.events`. Closing the iterator ends listening."""
        flight, run = self._flight, self._flight.run
        n_begun = n_heard = 0
        try:
            while True:
                if self._is_cancelled:
                    raise cancelled()
                if n_begun != run.n_begun:
                    n_begun, n_heard = run.n_begun, 0
                batches = flight.batches
                if n_heard < len(batches):
                    events = [event for batch in batches[n_heard:] for event in batch]
                    n_heard = len(batches)
                    yield events
                    if isinstance(events[-1], Finished):
                        return
                elif flight.error is not None:
                    raise flight.error.with_traceback(None)
                else:
                    self._wakeup = asyncio.get_running_loop().create_future()
                    await self._wakeup
        finally:
            flight.leave(self)
