"""Which tensor types llama.cpp's CPU backend keeps a second time, in an order of its own (ggml-cpu/repack.cpp, amx)."""

from __future__ import annotations

import platform
from collections.abc import Iterable

_AVX2 = frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"})
_AVX512 = frozenset({"Q2_K"})
_AMX = frozenset({"Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"})
_NEON = frozenset({"Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4", "Q1_0"})
_ARM = ("aarch64", "arm64")


def repacked_types(machine: str, instruction_sets: Iterable[str]) -> frozenset[str]:
    """The types' names for a processor, such as ``x86_64`` with ``avx2``; the names as in /proc/cpuinfo."""
    if machine in _ARM:
        return _NEON
    found: frozenset[str] = frozenset()
    for name, types in (("avx2", _AVX2), ("avx512f", _AVX512), ("amx_int8", _AMX)):
        if name in instruction_sets:
            found |= types
    return found


# Where nobody has looked at the processor: what those have that servers are made of.
REPACKED_TYPES = repacked_types(platform.machine(), ("avx2", "avx512f"))
