"""Numbers and texts as people read them."""

from __future__ import annotations

import math

import pytest

from appliance.hardware.memory_use import format_bytes
from tui.figures import clock_text, count_text, cut, duration_text, printable, size_text, tokens_text


@pytest.mark.parametrize("n_bytes", [0, 1, 1023, 20 << 10, (1 << 20) - 1, 98 << 20, (1 << 30) - 1, 5 << 30, 123 << 30])
def test_sizes_are_as_the_commands_write_them(n_bytes: int) -> None:
    assert size_text(n_bytes) == format_bytes(n_bytes)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.00 s"),
        (0.254, "0.25 s"),
        (1.25, "1.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.9, "1 min"),
        (185, "3 min 5 s"),
        (7200, "2 h"),
        (100000, "1 d 3 h"),
        (math.inf, "?"),
        (math.nan, "?"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_other_texts() -> None:
    assert (tokens_text(32768), tokens_text(1000), tokens_text(0)) == ("32k", "1000", "0")
    assert (count_text(1, "answer"), count_text(0, "answer")) == ("1 answer", "0 answers")
    assert printable("a\x1b[2J\nb\u202ec") == "a?[2J b?c"
    assert (clock_text(1e300), clock_text(math.nan)) == ("?", "?")
    assert (cut("abcdef", 4), cut("abcd", 4)) == ("abc…", "abcd")
