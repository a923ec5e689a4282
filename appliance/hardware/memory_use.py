"""Bytes for each device, and how they are read and written for people."""

from __future__ import annotations

import re

import msgspec

from appliance.errors import ConfigError

RAM = "RAM"
KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([KMGT]?)(i?B)?", re.IGNORECASE)


class DeviceMemory(msgspec.Struct, frozen=True):
    """What a model takes of one device. ``overhead_bytes`` are the process's own and the driver's."""

    weights_bytes: int = 0
    kv_bytes: int = 0
    compute_bytes: int = 0
    overhead_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.compute_bytes + self.overhead_bytes


# By device: RAM, or llama.cpp's name of a GPU, such as CUDA0.
MemoryUse = dict[str, DeviceMemory]


def parse_bytes(text: str, name: str = "size") -> int:
    """Bytes from ``24GiB``, ``24G``, ``24GB`` or a number of bytes; units are powers of 1024 with and without the i.

    Raises:
        ConfigError: with ``name`` and what is wanted.
    """
    match = _SIZE.fullmatch(text.strip())
    n_bytes = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if n_bytes < 1:
        raise ConfigError(f"{name}={text}: want a size such as 24GiB, 512MiB or 1.5GiB")
    return n_bytes


def format_bytes(n_bytes: int) -> str:
    """As people read it: ``5.2 GiB``, ``98 MiB``, ``20 KiB``."""
    if n_bytes and round(n_bytes / KIB) < 1024:
        return f"{n_bytes / KIB:.0f} KiB"
    if round(n_bytes / MIB) >= 1024:
        return f"{n_bytes / GIB:.1f} GiB"
    return f"{n_bytes / MIB:.0f} MiB"
