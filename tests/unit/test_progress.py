"""Progress where there is no terminal: a line at the beginning, then one now and then."""

from __future__ import annotations

import pytest

from appliance.cli.progress import LINE_INTERVAL_S, LineReport


def test_lines_come_now_and_then_with_speed_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    with LineReport(lambda: now).stage("fetching", 100_000_000, is_bytes=True) as advance:
        for _ in range(3):
            now += LINE_INTERVAL_S / 2
            advance(20_000_000)
    assert capsys.readouterr().err.splitlines() == [
        "fetching (100.0 MB)",
        "  fetching: 40 % at 4.0 MB/s, 15 s left",
    ]


def test_work_that_is_no_transfer_has_no_speed(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    with LineReport(lambda: now).stage("converting", 100) as advance:
        now = 20.0
        advance(50)
    assert capsys.readouterr().err == "converting\n  converting: 50 %, 20 s left\n"


def test_nothing_to_do_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    with LineReport(lambda: now).stage("fetching", 0, is_bytes=True) as advance:
        now = 20.0
        advance(0)
    assert capsys.readouterr().err == "fetching (0 bytes)\n  fetching: 0 % at 0 bytes/s\n"
