from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.messages import (
    MAX_FRAME_BYTES,
    Abort,
    Command,
    Events,
    Failed,
    FrameReader,
    Load,
    Piece,
    Report,
    Stop,
    TokenLogprob,
    encode,
)
from appliance.engine.params import SamplingParams
from tests.factories import submit


@given(st.lists(st.integers(1, 200), max_size=30))
def test_frames_survive_any_cutting(sizes: list[int]) -> None:
    params = SamplingParams(seed=7, logit_bias={3: -1.5}, dry_sequence_breakers=("a",))
    messages: list[Command] = [submit("hällo", params=params, n=2, stop=("x",)), Abort("r"), Stop()]
    data = b"".join(encode(message) for message in messages)
    reader: FrameReader[Command] = FrameReader(Command)
    got, start = [], 0
    for size in [*sizes, len(data)]:
        got += list(reader.feed(data[start : start + size]))
        start += size
    assert got == messages


def test_events_keep_every_field() -> None:
    events = Events(
        (Piece("r", 1, "ü", (TokenLogprob(b"\xff", -0.5, ((b"a", -1.0),)),)), Failed("r", "c", "m")), Load(1, 2, 3, 4)
    )
    reader: FrameReader[Report] = FrameReader(Report)
    assert list(reader.feed(encode(events))) == [events]


def test_a_frame_that_is_too_large_is_refused_before_it_is_read() -> None:
    reader: FrameReader[Command] = FrameReader(Command)
    with pytest.raises(ValueError, match="at most"):
        list(reader.feed((MAX_FRAME_BYTES + 1).to_bytes(4, "big")))


def test_what_is_no_message_is_refused() -> None:
    reader: FrameReader[Command] = FrameReader(Command)
    with pytest.raises(ValueError, match="truncated|Expected"):
        list(reader.feed(b"\x00\x00\x00\x01\x93"))
