from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.messages import TokenLogprob
from appliance.engine.text import TextStream


def run(stream: TextStream, pieces: list[bytes]) -> str:
    text = ""
    for piece in pieces:
        text += stream.push(piece)[0]
        if stream.is_stopped:
            break
    return text + stream.finish()[0]


def test_text_comes_out_at_once_without_stop_strings() -> None:
    assert TextStream().push(b"hello")[0] == "hello"


def test_a_character_comes_out_when_it_is_whole() -> None:
    stream = TextStream()
    emoji = "🦙".encode()
    assert [stream.push(emoji[i : i + 1])[0] for i in range(4)] == ["", "", "", "🦙"]


def test_bytes_that_never_become_a_character_are_replaced() -> None:
    assert run(TextStream(), [b"a\xf0\x9f"]) == "a\ufffd"


def test_a_stop_string_split_over_pieces_never_comes_out() -> None:
    stream = TextStream(("STOP",))
    assert run(stream, [b"one S", b"TO", b"P two"]) == "one "
    assert stream.is_stopped


def test_no_more_is_held_back_than_could_become_a_stop_string() -> None:
    stream = TextStream(("<end>",))
    assert stream.push(b"abc<e")[0] == "abc"
    assert stream.push(b"x<")[0] == "<ex"
    assert stream.finish()[0] == "<"


def test_the_earliest_of_several_stop_strings_counts() -> None:
    assert run(TextStream(("three", "two")), [b"one two three"]) == "one "


def test_a_stop_string_inside_a_character_boundary() -> None:
    assert run(TextStream(("ü",)), [b"gr\xc3", b"\xbcn"]) == "gr"


@given(
    st.text(alphabet="abc", max_size=30),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
    st.data(),
)
def test_any_cutting_gives_the_text_up_to_the_first_stop_string(
    text: str, stop: list[str], data: st.DataObject
) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=10)))
    edges = [0, *cuts, len(raw)]
    pieces = [raw[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    stream = TextStream(tuple(stop))
    got = run(stream, pieces)
    if not stream.is_stopped:
        assert got == text
        assert not any(s in text for s in stop)
    else:
        # The first piece that completes a stop string ends the text at the earliest one there is by then.
        assert text.startswith(got)
        assert any(text[len(got) :].startswith(s) for s in stop)
        assert not any(s in got for s in stop)


def logprob(name: bytes) -> TokenLogprob:
    return TokenLogprob(name, -1.0)


def test_logprobs_come_out_with_their_text() -> None:
    stream = TextStream(("xyz",))
    assert stream.push(b"a", logprob(b"a")) == ("a", (logprob(b"a"),))
    assert stream.push(b"bx", logprob(b"bx")) == ("b", ())
    assert stream.push(b"c", logprob(b"c")) == ("xc", (logprob(b"bx"), logprob(b"c")))


def test_logprobs_of_half_a_character_wait_for_the_other_half() -> None:
    stream = TextStream()
    assert stream.push(b"\xc3", logprob(b"\xc3")) == ("", ())
    assert stream.push(b"\xbc", logprob(b"\xbc")) == ("ü", (logprob(b"\xc3"), logprob(b"\xbc")))


def test_logprobs_behind_a_stop_string_are_dropped() -> None:
    stream = TextStream(("END",))
    stream.push(b"a", logprob(b"a"))
    assert stream.push(b"b E", logprob(b"b E")) == ("b ", ())
    assert stream.push(b"ND", logprob(b"ND")) == ("", (logprob(b"b E"),))


def test_a_token_without_text_has_its_logprob() -> None:
    assert TextStream().push(b"", logprob(b"<x>")) == ("", (logprob(b"<x>"),))


@pytest.mark.parametrize("stop", [(), ("",)])
def test_an_empty_stop_string_stops_nothing(stop: tuple[str, ...]) -> None:
    assert run(TextStream(stop), [b"a", b"b"]) == "ab"
