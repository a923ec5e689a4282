"""What the bench's client makes of an answer's bytes, however they are cut."""

from __future__ import annotations

import pytest

from bench.sse import EventReader, HttpReader
from bench.workloads.http import common_decode_rate, gaps_within

HEADERS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
BODY = b'data: {"a": 1}\n\n: prefill 512/3000\n\ndata: [DONE]\n\n'


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_a_chunked_stream_is_the_same_however_it_is_cut(step) -> None:
    data = HEADERS + chunked(BODY[:5], BODY[5:30], BODY[30:])
    http, events = HttpReader(), EventReader()
    found = [event for at in range(0, len(data), step) for event in events.feed(http.feed(data[at : at + step]))]
    assert found == [b'{"a": 1}', b"[DONE]"]
    assert (http.status, http.is_complete) == (200, True)


@pytest.mark.parametrize("step", [1, 1000])
def test_a_body_of_known_length_is_complete_at_its_end(step) -> None:
    data = b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\ngone"
    http = HttpReader()
    body = b"".join(http.feed(data[at : at + step]) for at in range(0, len(data), step))
    assert (http.status, body, http.is_complete) == (404, b"gone", True)
    assert http.headers == {b"content-length": b"4"}


def test_a_body_may_end_with_its_connection() -> None:
    http = HttpReader()
    assert http.feed(b"HTTP/1.1 200 OK\r\n\r\nab") + http.feed(b"cd") == b"abcd"


def test_what_is_no_http_is_refused() -> None:
    with pytest.raises(ValueError, match="no HTTP answer"):
        HttpReader().feed(b"SSH-2.0-x\r\n\r\n")


def test_lines_may_end_in_carriage_returns() -> None:
    assert EventReader().feed(b"event: x\r\ndata: 1\r\ndata: 2\r\n\r\ndata:3\r\n\r\n") == [b"1\n2", b"3"]


def test_an_event_counts_once_its_blank_line_has_come() -> None:
    events = EventReader()
    assert events.feed(b"data: 1\n") == []
    assert events.feed(b"\n") == [b"1"]


def test_a_gap_counts_if_any_part_of_it_lies_within() -> None:
    assert gaps_within([0.0, 1.0, 5.0, 6.0, 7.0], 2.0, 6.0) == [4.0, 1.0]


def test_a_stream_that_stood_still_all_the_time_has_one_gap() -> None:
    assert gaps_within([0.0, 10.0], 2.0, 6.0) == [10.0]


def test_streams_are_counted_while_all_of_them_decode() -> None:
    # Both decode from 2 to 4: two tokens of the first and four of the second.
    assert common_decode_rate([[0.0, 1.0, 2.0, 3.0, 4.0], [2.0, 2.5, 3.0, 3.5, 4.0, 4.5]]) == 3.0


def test_one_after_the_other_they_go_at_the_rate_of_one() -> None:
    assert common_decode_rate([[10.0, 10.5, 11.0], [20.0, 20.5, 21.0]]) == 2.0
