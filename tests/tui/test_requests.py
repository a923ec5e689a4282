"""The requests: what is shown of them, finding one, and cancelling it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from appliance.schemas.admin import EndedRequest, RequestStatus
from tests.tui import sample
from tests.tui.recorded import (
    Answer,
    RecordedServer,
    is_asked,
    is_told,
    opened,
    recorded,
    refusal,
    screen_text,
    sees,
    until,
)
from tests.tui.snapshots import check_snapshot, frozen_zone  # noqa: F401 - a fixture
from tui.widgets.rows import Rows

FRAME_S = 0.05


@pytest.fixture
async def server() -> AsyncIterator[RecordedServer]:
    async with recorded() as running:
        tell(running, sample.request(id="chatcmpl-a"), sample.request(id="chatcmpl-b", key="batch"))
        yield running


def at(server: RecordedServer, **options: Any) -> Any:
    return opened(server, "requests", **options)


def tell(server: RecordedServer, *open_ones: RequestStatus, recent: tuple[EndedRequest, ...] = ()) -> None:
    server.answer("GET", "/admin/requests", sample.requests(*open_ones, recent=list(recent)))


def row(screen: str, name: str) -> list[str]:
    return next(line for line in screen.splitlines() if name in line).split()


async def test_an_open_request_says_where_it_is(server: RecordedServer) -> None:
    tell(
        server,
        sample.request(id="chatcmpl-a", age_s=75.0, tokens_per_s=12.34, completion_pieces=20),
        sample.request(id="chatcmpl-b", state="prefill", prompt_tokens_computed=64, tokens_per_s=None, cache=None),
        sample.request(id="chatcmpl-c", state="waiting", queue_place=3, prompt_tokens_computed=0, tokens_per_s=None),
    )
    async with at(server, size=(200, 60)) as pilot:
        await sees(pilot, "3 open requests: 1 waiting", "chatcmpl-c")
        shown = screen_text(pilot)
        assert row(shown, "chatcmpl-a") == "> small app decode 100 20 12.3/s 1 min 15 s miss chatcmpl-a req-1".split()
        assert row(shown, "chatcmpl-b") == "small app prefill 64/100 20 - 2.0 s - chatcmpl-b req-1".split()
        assert row(shown, "chatcmpl-c") == "small app waiting #3 0/100 20 - 2.0 s miss chatcmpl-c req-1".split()


async def test_an_ended_request_says_what_came_of_it(server: RecordedServer) -> None:
    hit = sample.ended(id="chatcmpl-h", outcome="length", cache="hit", queue_s=None, ttft_s=0.01, e2e_s=0.02)
    tell(server, recent=(sample.ended(id="chatcmpl-e", outcome="engine_unavailable"), hit))
    ended = time.strftime("%H:%M:%S", time.localtime(sample.NOW_S - 10))
    async with at(server, size=(200, 60)) as pilot:
        await sees(pilot, "No request waits or runs", "2 ended lately")
        shown = screen_text(pilot)
        error = f"> small app engine_unavailable 64+36 40 0.01 s 0.30 s 2.5 s miss {ended} chatcmpl-e req-0"
        assert row(shown, "chatcmpl-e") == error.split()
        assert (
            row(shown, "chatcmpl-h")
            == f"small app length 64+36 40 - 0.01 s 0.02 s hit {ended} chatcmpl-h req-0".split()
        )


async def test_what_tells_most_is_seen_in_80_columns(server: RecordedServer) -> None:
    async with at(server) as pilot:
        await sees(pilot, "Model", "Key", "State", "Prompt", "Answer", "Speed", "Age", "Outcome", "Total")


async def test_the_filter_finds_requests_by_words_of_any_column(server: RecordedServer) -> None:
    tell(server, *(sample.request(id=f"chatcmpl-{n}", key=f"key{n}") for n in range(3)), recent=(sample.ended(),))
    async with at(server) as pilot:
        await sees(pilot, "key2", "1 ended lately")
        await pilot.press("slash", *"KEY1", "space", *"dec")
        await sees(pilot, "3 open requests: 0 waiting; 1 of 3 have these words", "0 of 1 have these words")
        assert "key2" not in screen_text(pilot)
        await pilot.press("escape")
        await sees(pilot, "key2")
        assert pilot.app.screen.query_one("#open", Rows).has_focus


async def test_the_id_is_copied_whole(server: RecordedServer) -> None:
    long = "chatcmpl-" + "0123456789abcdef" * 8
    tell(server, sample.request(id=long))
    async with at(server) as pilot:
        await sees(pilot, "1 open request")
        await pilot.press("c")
        assert pilot.app.clipboard == long


async def test_a_request_is_cancelled_after_asking(server: RecordedServer) -> None:
    server.answer("DELETE", "/admin/requests/chatcmpl-b", {"cancelled": "chatcmpl-b"})
    async with at(server) as pilot:
        await sees(pilot, "batch")
        await pilot.press("down", "x")
        await is_asked(pilot)
        await sees(pilot, "Cancel chatcmpl-b?", "of the key batch", "20 pieces")
        assert not server.of("DELETE")
        await pilot.press("y")
        await is_told(pilot, "chatcmpl-b is cancelled.")
        assert [asked.path for asked in server.of("DELETE")] == ["/admin/requests/chatcmpl-b"]


async def test_the_one_that_was_asked_about_is_cancelled_even_if_the_rows_have_moved(server: RecordedServer) -> None:
    server.answer("DELETE", "/admin/requests/chatcmpl-a", refusal(404, "no request 'chatcmpl-a' waits or runs"))
    async with at(server) as pilot:
        await sees(pilot, "batch")
        await pilot.press("x")
        await is_asked(pilot)
        n_asked = len(server.of("GET", "/admin/requests"))
        tell(server, sample.request(id="chatcmpl-b", key="batch"))
        await until(pilot, lambda: len(server.of("GET", "/admin/requests")) > n_asked + 1)
        await pilot.press("y")
        await is_told(pilot, "No request 'chatcmpl-a' waits or runs.")
        assert [asked.path for asked in server.of("DELETE")] == ["/admin/requests/chatcmpl-a"]


async def test_with_no_request_there_is_nothing_to_cancel(server: RecordedServer) -> None:
    tell(server)
    async with at(server) as pilot:
        await sees(pilot, "No request waits or runs")
        await pilot.press("x", "c", "enter")
        await sees(pilot, "No request waits or runs")


async def test_an_id_with_any_characters_is_one_part_of_the_address(server: RecordedServer) -> None:
    tell(server, sample.request(id="a/b?c#d%41"))
    async with at(server) as pilot:
        await sees(pilot, "1 open request")
        await pilot.press("x")
        await is_asked(pilot)
        await pilot.press("y")
        await until(pilot, lambda: server.of("DELETE"))
        assert server.of("DELETE")[0].path == "/admin/requests/a/b?c#d%41"


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (refusal(403, "this key may not do that"), "This key may not do that."),
        (Answer(b"gone", 502), "is not the appliance"),
    ],
)
async def test_bad_answers_are_one_sentence(server: RecordedServer, answer: Answer, sentence: str) -> None:
    server.answer("DELETE", "/admin/requests/chatcmpl-a", answer)
    async with at(server) as pilot:
        await sees(pilot, "batch")
        await pilot.press("x")
        await is_asked(pilot)
        await pilot.press("y")
        await is_told(pilot, sentence)


async def test_a_server_that_is_lost_in_the_middle_comes_back(server: RecordedServer) -> None:
    server.hold("DELETE", "/admin/requests/chatcmpl-a")
    async with at(server) as pilot:
        await sees(pilot, "batch")
        await pilot.press("slash", *"small")
        await pilot.press("enter", "x")
        await is_asked(pilot)
        await pilot.press("y")
        await until(pilot, lambda: server.of("DELETE"))
        await server.stop()
        await is_told(pilot, "broke")
        await sees(pilot, "No server answers", "batch")
        tell(server, sample.request(key="later"))
        await server.start()
        await sees(pilot, "later", "1 of 1 have these words")
        assert "No server answers" not in screen_text(pilot)


async def test_a_list_that_is_none_is_told_and_forgotten(server: RecordedServer) -> None:
    async with at(server) as pilot:
        await sees(pilot, "batch")
        server.answer("GET", "/admin/requests", Answer(b"[]"))
        await sees(pilot, "answers otherwise than this terminal UI expects", "batch")
        tell(server, sample.request(key="later"))
        await sees(pilot, "later")
        assert "answers otherwise" not in screen_text(pilot)


async def test_500_rows_scroll_in_frames_of_less_than_50_ms(server: RecordedServer) -> None:
    tell(server, *(sample.request(id=f"chatcmpl-{n}", age_s=500.0 - n) for n in range(500)))
    async with at(server, size=(200, 60)) as pilot:
        await sees(pilot, "500 open requests")
        took = []
        for _ in range(12):
            began = time.process_time()
            await pilot.press("pagedown")
            await pilot.pause()
            took.append(time.process_time() - began)
        await sees(pilot, "> small", "chatcmpl-4")
        # Of the processor's time, for others use this machine, too; the poller's and the server's are in it.
        assert sorted(took)[len(took) // 2] < FRAME_S, took


def busy(server: RecordedServer) -> None:
    """A machine with more to do than it has slots for."""
    running = [
        sample.request(id=f"chatcmpl-{n:032x}", completion_pieces=140 - 40 * n, age_s=14.0 - n) for n in range(3)
    ]
    prefill = sample.request(
        id=f"chatcmpl-{3:032x}",
        key="batch",
        state="prefill",
        prompt_tokens=6000,
        prompt_tokens_computed=2048,
        completion_pieces=0,
        tokens_per_s=None,
        age_s=3.0,
    )
    waiting = [
        sample.request(
            id=f"chatcmpl-{n:032x}",
            key="batch",
            state="waiting",
            queue_place=n - 3,
            prompt_tokens_computed=0,
            completion_pieces=0,
            tokens_per_s=None,
            age_s=8.0 - n,
        )
        for n in range(4, 7)
    ]
    recent = (
        sample.ended(id="chatcmpl-a"),
        sample.ended(id="chatcmpl-b", cache="hit", queue_s=None, ttft_s=0.002, e2e_s=0.003),
        sample.ended(id="chatcmpl-c", outcome="engine_failed", completion_tokens=3),
        sample.ended(id="chatcmpl-d", outcome="abort", key="batch"),
    )
    tell(server, *running, prefill, *waiting, recent=recent)


@pytest.mark.usefixtures("frozen_zone")
@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
async def test_they_look_well(server: RecordedServer, size: tuple[int, int], tmp_path: Path) -> None:
    busy(server)
    async with at(server, size=size) as pilot:
        await sees(pilot, "waiting #3", "engine_failed")
        await check_snapshot(pilot, f"requests-{size[0]}x{size[1]}", tmp_path)
