"""What has gone over the network since the machine's start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
import psutil


class Counters(Protocol):
    """Of one interface, in psutil's words."""

    @property
    def bytes_sent(self) -> int: ...

    @property
    def bytes_recv(self) -> int: ...


class Traffic(msgspec.Struct, frozen=True):
    """Of all interfaces but loopback; None: the system doesn't say."""

    sent_bytes: int | None = None
    received_bytes: int | None = None


def _counters() -> Mapping[str, Counters]:
    return psutil.net_io_counters(pernic=True)


def read_traffic(counters: Callable[[], Mapping[str, Counters]] = _counters) -> Traffic:
    """``counters`` gives those of each interface by its name."""
    try:
        found = counters()
    except OSError:
        return Traffic()
    outside = [counted for name, counted in found.items() if not _is_loopback(name)]
    return Traffic(sum(one.bytes_sent for one in outside), sum(one.bytes_recv for one in outside))


def _is_loopback(name: str) -> bool:
    """Linux calls it lo, macOS and the BSDs lo0."""
    return name.rstrip("0123456789") == "lo"
