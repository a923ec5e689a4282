"""How much memory models may take right now, of each device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from appliance.hardware.fit import Room
from appliance.hardware.memory_use import RAM, MemoryUse


@dataclass(frozen=True, slots=True)
class Booking:
    """What a model has been given. ``is_settled``: its process has taken it already, so that devices show it."""

    memory: MemoryUse
    pid: int | None
    is_settled: bool


class Budget(Protocol):
    """Injected, so that policy is tested without a machine."""

    def rooms(self, bookings: Sequence[Booking], freed: Sequence[Booking] = ()) -> tuple[Room, ...]:
        """What is left beside ``bookings``: RAM first, then each GPU in llama.cpp's order.

        ``freed`` are there still, and counted as if they had gone.
        """

    def lost_gpus(self) -> str | None:
        """Why GPUs that were there are gone; None while all are there."""


class FixedBudget:
    """So many bytes of each device, whatever the machine has."""

    def __init__(self, limits: dict[str, int]) -> None:
        """``limits``: by device; RAM among them."""
        self._limits = {RAM: limits[RAM], **limits}

    def rooms(self, bookings: Sequence[Booking], freed: Sequence[Booking] = ()) -> tuple[Room, ...]:
        return tuple(Room(device, limit - booked(bookings, device)) for device, limit in self._limits.items())

    def lost_gpus(self) -> str | None:
        return None


def booked(bookings: Sequence[Booking], device: str) -> int:
    """Bytes of a device that are given away."""
    return sum(booking.memory[device].total_bytes for booking in bookings if device in booking.memory)
