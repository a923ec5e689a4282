"""Work that may hang: a disk on a network, a driver with a sick GPU."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from appliance.errors import ApplianceError

T = TypeVar("T")


class TookTooLong(ApplianceError):
    """It may go on in its thread, and nobody waits for it any more."""


def limited(work: Callable[[], T], *, limit_s: float) -> T:
    """What ``work`` returns or raises. Raises TookTooLong after ``limit_s``."""
    outcome: queue.SimpleQueue[tuple[T, None] | tuple[None, BaseException]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((work(), None))
        except BaseException as error:  # raised again by the thread that waits
            outcome.put((None, error))

    threading.Thread(target=run, name="doctor", daemon=True).start()
    try:
        result, error = outcome.get(timeout=limit_s)
    except queue.Empty:
        raise TookTooLong(f"no answer within {limit_s:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
