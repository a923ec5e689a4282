"""Numbers and the server's texts, as people read them."""

from __future__ import annotations

import math
import time

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400


def size_text(n_bytes: int) -> str:
    """As the commands write it: ``5.2 GiB``, ``98 MiB``, ``20 KiB``."""
    if n_bytes and round(n_bytes / KIB) < 1024:
        return f"{n_bytes / KIB:.0f} KiB"
    if round(n_bytes / MIB) >= 1024:
        return f"{n_bytes / GIB:.1f} GiB"
    return f"{n_bytes / MIB:.0f} MiB"


def tokens_text(n_tokens: int) -> str:
    """Short: ``32k`` for 32768, which is a context's round number, ``1000`` as it is."""
    return f"{n_tokens // 1024}k" if n_tokens and n_tokens % 1024 == 0 else str(n_tokens)


def count_text(n: int, noun: str) -> str:
    """``1 answer``, ``2 answers``."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def duration_text(seconds: float) -> str:
    """The two largest units of it: ``0.25 s``, ``12 s``, ``3 min 5 s``, ``2 h``, ``1 d 4 h``; ``?`` if endless."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 1:
        return f"{max(0.0, seconds):.2f} s"
    if round(seconds, 1) < 10:
        return f"{seconds:.1f} s"
    rest = round(seconds)
    for unit, length, lesser, lesser_length in (
        ("d", _DAY_S, "h", _HOUR_S),
        ("h", _HOUR_S, "min", _MINUTE_S),
        ("min", _MINUTE_S, "s", 1),
    ):
        if rest >= length:
            n_lesser = rest % length // lesser_length
            return f"{rest // length} {unit}" + (f" {n_lesser} {lesser}" if n_lesser else "")
    return f"{rest} s"


def clock_text(time_s: float) -> str:
    """The time of day here, of a time since 1970; ``?`` for what is none."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(time_s))
    except (OverflowError, ValueError, OSError):
        return "?"


def printable(text: str) -> str:
    """On one line, and without what a terminal would obey: a name may hold an escape sequence."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " if char.isspace() else "?" for char in text)


def cut(text: str, n_chars: int) -> str:
    """No longer than that; what was cut off shows as a dot."""
    return text if len(text) <= n_chars else text[: n_chars - 1] + "…"
