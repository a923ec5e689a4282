"""The response cache: its figures, its answers, and taking them out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from appliance.schemas.cache import Purged, Vacuumed
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
from tests.tui.snapshots import check_snapshot
from tui.widgets.cache_stats import stats_text

PURGE, VACUUM = "/admin/cache/purge", "/admin/cache/vacuum"


@pytest.fixture
async def server() -> AsyncIterator[RecordedServer]:
    async with recorded() as running:
        running.answer("GET", "/admin/cache", sample.cache(sample.cached_answers(), sample.cached_answers(key="batch")))
        running.answer("POST", PURGE, Purged(purged=30))
        running.answer("POST", VACUUM, Vacuumed(before_bytes=40 * sample.MIB, after_bytes=2 * sample.MIB))
        yield running


def at(server: RecordedServer, **options: Any) -> Any:
    return opened(server, "cache", **options)


async def test_its_figures_and_its_answers_are_shown(server: RecordedServer) -> None:
    async with at(server) as pilot:
        await sees(pilot, "hits 30, joined 10, misses 60", "40%  of 100 prompts", "3 MiB of 100 MiB", "5 temperature")
        await sees(pilot, "4000 tokens, 1 min 20 s of computing", "60 answers with 6000 tokens")
        row = next(line for line in screen_text(pilot).splitlines() if "> small" in line)
        assert row.split() == "> small 111111111111 app 30 3000 1 d".split()


def test_nothing_asked_is_no_share() -> None:
    status = sample.cache_status(hits=0, joins=0, misses=0, bypasses={}, limit_bytes=0, ttl_s=60.0)
    text = stats_text(status).plain
    assert "]    -  of 0 prompts since the start" in text
    assert "kept         for 1 min, in" in text
    assert "passed by    none" in text


async def test_why_no_answer_can_be_kept_is_said_first(server: RecordedServer) -> None:
    server.answer("GET", "/admin/cache", sample.cache(status=sample.cache_status(problem="the [disk] is full")))
    async with at(server) as pilot:
        await sees(pilot, "! No answer can be kept: the [disk] is full.", "No answer is stored")


async def test_a_cache_that_is_off_says_so(server: RecordedServer) -> None:
    server.answer("GET", "/admin/cache", refusal(404, "the response cache is off", "response_cache_off"))
    async with at(server) as pilot:
        await sees(pilot, "The response cache is off.", "No answer is stored")
        await pilot.press("x", "o", "a")
        await is_told(pilot, "No answer is stored.")
        assert not server.of("POST")


@pytest.mark.parametrize(
    ("keys", "question", "body"),
    [
        (
            ("down", "x"),
            "Remove 30 answers of small@111111111111 for the key batch?",
            {"model": "small@111111111111", "key": "batch", "all": False},
        ),
        (
            ("o", "home", "1", "enter"),
            "Remove the answers of all models and keys that are older than 17 d?",
            {"older_than_s": 17 * 86400.0, "all": False},
        ),
        (("a",), "Remove all answers, 60 now?", {"all": True}),
    ],
)
async def test_answers_are_removed_after_asking(
    server: RecordedServer, keys: tuple[str, ...], question: str, body: dict[str, Any]
) -> None:
    async with at(server) as pilot:
        await sees(pilot, "batch")
        await pilot.press(*keys)
        await is_asked(pilot)
        await sees(pilot, question)
        assert not server.of("POST")
        await pilot.press("y")
        await is_told(pilot, "Removed 30 answers.")
        assert [asked.body for asked in server.of("POST", PURGE)] == [body]


@pytest.mark.parametrize("text", ["soon", "-1d", "1e999d", "7", "", "9" * 400 + "d"])
async def test_what_is_no_time_can_be_typed_again(server: RecordedServer, text: str) -> None:
    async with at(server) as pilot:
        await sees(pilot, "batch")
        await pilot.press("o", "backspace", "backspace", *text, "enter")
        await sees(pilot, "Want a time such as 30m, 12h or 7d.")
        await pilot.press("escape")
        await sees(pilot, "batch")
        assert not server.of("POST")


async def test_the_file_is_written_anew_after_asking(server: RecordedServer) -> None:
    async with at(server) as pilot:
        await sees(pilot, "batch")
        await pilot.press("v")
        await is_asked(pilot)
        await pilot.press("y")
        await is_told(pilot, "The file has 2 MiB now, 40 MiB before.")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (refusal(503, "the file is locked"), "The file is locked."),
        (Answer({"purged": "many"}), "answers otherwise than this terminal UI expects"),
        (Answer(b"", 500), "is not the appliance"),
    ],
)
@pytest.mark.parametrize("key", ["x", "a", "v"])
async def test_bad_answers_are_one_sentence(server: RecordedServer, answer: Answer, sentence: str, key: str) -> None:
    for path in (PURGE, VACUUM):
        server.answer("POST", path, answer)
    async with at(server) as pilot:
        await sees(pilot, "batch")
        await pilot.press(key)
        await is_asked(pilot)
        await pilot.press("y")
        await is_told(pilot, sentence)


@pytest.mark.parametrize("key", ["x", "v"])
async def test_a_server_that_is_lost_in_the_middle_comes_back(server: RecordedServer, key: str) -> None:
    for path in (PURGE, VACUUM):
        server.hold("POST", path)
    async with at(server) as pilot:
        await sees(pilot, "batch")
        await pilot.press(key)
        await is_asked(pilot)
        await pilot.press("y")
        await until(pilot, lambda: server.of("POST"))
        await server.stop()
        await is_told(pilot, "broke")
        await sees(pilot, "No server answers", "batch")
        server.answer("GET", "/admin/cache", sample.cache(sample.cached_answers(key="later")))
        await server.start()
        await sees(pilot, "later")
        assert "No server answers" not in screen_text(pilot)


async def test_a_group_with_no_name_is_not_asked_about(server: RecordedServer) -> None:
    server.answer("GET", "/admin/cache", sample.cache(sample.cached_answers(key="")))
    async with at(server) as pilot:
        await sees(pilot, "30 answers")
        await pilot.press("x")
        await is_told(pilot, "can't be asked for it")
        assert not server.of("POST")


async def test_it_looks_well(server: RecordedServer, tmp_path: Path) -> None:
    groups = [
        sample.cached_answers(key="app", answers=412, tokens=51200),
        sample.cached_answers(key="batch", answers=88, tokens=9000, oldest_s=sample.NOW_S - 7200),
        sample.cached_answers(
            model="large", version="333333333333", answers=7, tokens=4100, oldest_s=sample.NOW_S - 40
        ),
    ]
    server.answer("GET", "/admin/cache", sample.cache(*groups))
    async with at(server) as pilot:
        await sees(pilot, "507 answers")
        await check_snapshot(pilot, "cache", tmp_path)
