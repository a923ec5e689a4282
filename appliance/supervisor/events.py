"""What happens to models, told to whoever wants to watch."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

# A watcher that reads too slowly misses the oldest.
MAX_WAITING = 256


@dataclass(frozen=True, slots=True)
class ModelEvent:
    """``kind`` is what happened, ``model`` to which; ``time_s`` is the wall clock's, since 1970.

    Kinds: loading, progress (``load_ratio``), ready (``load_s``), draining, unloaded (``reason``), failed (``error``),
    refused (``error``), wedged.
    """

    kind: str
    model: str
    fields: dict[str, Any] = field(default_factory=dict)
    time_s: float = field(default_factory=time.time)


class EventFeed:
    def __init__(self) -> None:
        self._watchers: set[asyncio.Queue[ModelEvent]] = set()
        self._listeners: list[Callable[[ModelEvent], None]] = []

    def listen(self, listener: Callable[[ModelEvent], None]) -> None:
        """``listener`` is called with each event, at once."""
        self._listeners.append(listener)

    def publish(self, kind: str, model: str, **fields: Any) -> None:
        event = ModelEvent(kind, model, fields)
        for listener in self._listeners:
            listener(event)
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    @contextlib.contextmanager
    def watch(self) -> Iterator[asyncio.Queue[ModelEvent]]:
        """Takes up the events from now on, while the block lasts."""
        queue: asyncio.Queue[ModelEvent] = asyncio.Queue(MAX_WAITING)
        self._watchers.add(queue)
        try:
            yield queue
        finally:
            self._watchers.discard(queue)
