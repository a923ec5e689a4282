"""The log: following it, finding lines, reading while more come, and a server that is started anew."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from textual.events import MouseScrollUp

from appliance.schemas.admin import LogLines
from tests.gateway import run_gateway
from tests.tui import sample
from tests.tui.recorded import (
    Answer,
    Asked,
    RecordedServer,
    Stream,
    is_told,
    opened,
    recorded,
    screen_text,
    sees,
    until,
)
from tests.tui.snapshots import check_snapshot, frozen_zone
from tui.log_lines import entry, shown
from tui.widgets.log_view import MAX_LINES, LogView

__all__ = ["frozen_zone"]
FRAME_S = 0.05


class Log:
    """What the recorded server has written; its numbers begin at 1."""

    def __init__(self, server: RecordedServer) -> None:
        self._server = server
        self.lines: list[str] = []
        server.answer("GET", "/admin/logs", self._answer)

    def write(self, *lines: str) -> None:
        """Those who follow get them at once."""
        for line in lines:
            self.lines.append(line)
            self._server.push("/admin/logs", {"number": len(self.lines), "line": line})

    def _answer(self, asked: Asked) -> Any:
        first = int(asked.query.get("after", 0))
        newer = [{"number": n + 1, "line": line} for n, line in enumerate(self.lines) if n >= first]
        if not asked.query.get("follow"):
            return _json(newer)
        stream = Stream({})
        stream.push(*newer)
        return stream


def _json(lines: list[dict[str, Any]]) -> Any:
    return Answer(LogLines.model_validate({"lines": lines}))


@pytest.fixture
async def server() -> AsyncIterator[RecordedServer]:
    async with recorded() as running:
        yield running


@pytest.fixture
def log(server: RecordedServer) -> Log:
    return Log(server)


def at(server: RecordedServer, **options: Any) -> Any:
    return opened(server, "logs", **options)


def line(message: str, level: str = "INFO") -> str:
    return f"2026-01-02 03:04:05,678 {level:<7} appliance.service.completion {message}"


async def follows(pilot: Any, server: RecordedServer) -> None:
    """Waits until what is written is sent to the screen."""
    await until(
        pilot, lambda: any(asked.stream and "follow" in asked.query for asked in server.of("GET", "/admin/logs"))
    )


# Lines


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (line("request_finished n=3"), "  03:04:05 completion: request_finished n=3"),
        (line("model_failed", "ERROR"), "X 03:04:05 completion: model_failed"),
        (line("slow", "WARNING"), "! 03:04:05 completion: slow"),
        (line("step", "DEBUG"), ". 03:04:05 completion: step"),
        (
            '{"time": "2026-01-02T03:04:05.678Z", "level": "warning", "logger": "appliance.api", "event": "e", "n": 3}',
            "! 03:04:05 api: e n=3",
        ),
        ("llama_model_loader: loaded", "  llama_model_loader: loaded"),
        ('{"not": "ours"}', '  {"not": "ours"}'),
        ('{"broken', '  {"broken'),
        (line("first\nTraceback\n  File"), "  03:04:05 completion: first | Traceback |   File"),
        (line("bell \x07 \x1b[31mred"), "  03:04:05 completion: bell ? ?[31mred"),
    ],
)
def test_a_line_is_shown_with_its_time_and_a_sign_for_its_level(text: str, told: str) -> None:
    assert shown(entry(1, text)) == told


# Following


async def test_what_there_is_and_what_comes_is_shown(server: RecordedServer, log: Log) -> None:
    log.write(line("first"), line("second"))
    async with at(server) as pilot:
        await sees(pilot, "completion: second", "Following. 2 lines.")
        await follows(pilot, server)
        log.write(line("third"))
        await sees(pilot, "completion: third", "3 lines")


async def test_who_reads_is_left_where_they_are_until_they_follow_again(server: RecordedServer, log: Log) -> None:
    log.write(*(line(f"line-{n:03}") for n in range(100)))
    async with at(server) as pilot:
        await sees(pilot, "line-099")
        await follows(pilot, server)
        await pilot.press("pageup", "pageup")
        await sees(pilot, "Paused")
        before = re.findall(r"line-\d+", screen_text(pilot))
        log.write(*(line(f"late-{n}") for n in range(30)))
        await sees(pilot, "130 lines")
        assert re.findall(r"line-\d+", screen_text(pilot)) == before
        await pilot.press("end")
        await sees(pilot, "Following", "late-29")
        log.write(line("latest"))
        await sees(pilot, "latest")


async def test_the_wheel_pauses_too(server: RecordedServer, log: Log) -> None:
    log.write(*(line(f"line-{n:03}") for n in range(100)))
    async with at(server) as pilot:
        await sees(pilot, "line-099")
        view = pilot.app.screen.query_one(LogView)
        await pilot._post_mouse_events([MouseScrollUp], view, (5, 5))
        await sees(pilot, "Paused")


async def test_the_log_of_a_server_that_was_started_anew_is_shown_from_its_beginning(
    server: RecordedServer, log: Log
) -> None:
    log.write(*(line(f"old-{n}") for n in range(5)))
    async with at(server) as pilot:
        await sees(pilot, "old-4")
        await follows(pilot, server)
        await server.stop()
        server.answer("GET", "/admin/status", sample.status(started_s=sample.NOW_S))
        anew = Log(server)
        anew.write(line("new-0"), line("new-1"))
        await server.start()
        await sees(pilot, "old-4", "new-0", "new-1")
        assert screen_text(pilot).count("new-0") == 1


async def test_a_connection_that_breaks_loses_and_doubles_no_line(server: RecordedServer, log: Log) -> None:
    log.write(line("one"))
    async with at(server) as pilot:
        await sees(pilot, "completion: one")
        await follows(pilot, server)
        await server.stop()
        log.lines.append(line("two"))
        await server.start()
        await sees(pilot, "completion: two", "2 lines")


async def test_another_section_does_not_follow_and_what_was_missed_is_there_after(
    server: RecordedServer, log: Log
) -> None:
    log.write(line("one"))
    async with at(server) as pilot:
        await sees(pilot, "completion: one")
        await follows(pilot, server)
        await pilot.press("f5")
        await until(
            pilot,
            lambda: all(a.stream is None or a.stream.client_left.is_set() for a in server.of("GET", "/admin/logs")),
        )
        log.write(line("two"))
        await pilot.press("f7")
        await sees(pilot, "completion: two", "2 lines")


# Finding


async def test_words_find_lines_in_whatever_case(server: RecordedServer, log: Log) -> None:
    log.write(line("alpha beta"), line("alpha gamma"), line("delta"))
    async with at(server) as pilot:
        await sees(pilot, "delta")
        await pilot.press("slash", *"ALPHA", "space", *"ga")
        await sees(pilot, "1 of 3 lines")
        await follows(pilot, server)
        log.write(line("alpha again"), line("other"))
        await sees(pilot, "2 of 5 lines", "alpha again")
        await pilot.press("escape")
        await sees(pilot, "5 lines", "delta")


async def test_only_lines_that_are_bad_enough_are_shown(server: RecordedServer, log: Log) -> None:
    log.write(line("d", "DEBUG"), line("i"), line("w", "WARNING"), line("e", "ERROR"), line("c", "CRITICAL"))
    async with at(server) as pilot:
        await sees(pilot, "5 lines")
        await pilot.press("l")
        await sees(pilot, "4 of 5 lines, info and worse")
        await pilot.press("l")
        await sees(pilot, "3 of 5 lines, warning and worse")
        await pilot.press("l")
        await sees(pilot, "2 of 5 lines, errors")
        await pilot.press("l")
        await sees(pilot, "5 lines")


# Copying


async def test_a_line_is_copied_as_it_was_written(server: RecordedServer, log: Log) -> None:
    log.write(line("one"), line("two " + "x" * 500 + "\nTraceback"))
    async with at(server) as pilot:
        await sees(pilot, "completion: two")
        await pilot.press("c")
        await is_told(pilot, "Copied the line.")
        assert pilot.app.clipboard == log.lines[1]


async def test_all_lines_that_are_shown_are_copied(server: RecordedServer, log: Log) -> None:
    log.write(line("alpha 1"), line("beta"), line("alpha 2"))
    async with at(server) as pilot:
        await sees(pilot, "alpha 2")
        await pilot.press("slash", *"alpha", "enter", "a")
        await is_told(pilot, "Copied 2 lines.")
        assert pilot.app.clipboard == f"{log.lines[0]}\n{log.lines[2]}"


# Very many


async def test_ten_thousand_lines_are_kept_and_scroll_at_once(server: RecordedServer, log: Log) -> None:
    log.lines = [line(f"line-{n:05} " + "x" * (n % 200)) for n in range(MAX_LINES + 500)]
    async with at(server, size=(200, 60)) as pilot:
        await sees(pilot, f"line-{MAX_LINES + 499:05}", f"{MAX_LINES} lines")
        view = pilot.app.screen.query_one(LogView)
        await pilot.press("home")
        await sees(pilot, "line-00500")
        slowest = []
        for key in ("pagedown", "down", "pageup", "end", "pageup"):
            before = time.process_time()
            await pilot.press(key)
            view.screen._compositor.render_update(full=True, simplify=True)
            slowest.append(time.process_time() - before)
        assert sorted(slowest)[2] < FRAME_S, slowest  # the median: others use this machine, too


async def test_a_real_gateways_log_is_followed() -> None:
    async with run_gateway() as gateway:
        gateway.state.log.add(line("written before"))
        key = gateway.admin["Authorization"].removeprefix("Bearer ")
        async with opened(gateway, "logs", key=key) as pilot:
            await sees(pilot, "written before")
            gateway.state.log.add(line("written after", "WARNING"))
            await sees(pilot, "! 03:04:05 completion: written after")


@pytest.mark.usefixtures("frozen_zone")
async def test_it_looks_as_in_the_readme(server: RecordedServer, log: Log, tmp_path: Any) -> None:
    events = ("model_loading model=small", "request_finished request_id=req-1 outcome=stop tokens=40 seconds=2.500")
    log.write(*(line(events[n % 2]) for n in range(20)))
    log.write(
        line("gpu_lost name=0 reason='fell off the bus'", "ERROR"), line("disk_nearly_full path=/state", "WARNING")
    )
    async with at(server) as pilot:
        await sees(pilot, "disk_nearly_full", "22 lines")
        await check_snapshot(pilot, "logs", tmp_path)
