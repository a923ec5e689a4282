"""The dashboard: curves from the history, and the figures of machine, GPUs and models."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from appliance.schemas.admin import Snapshot as Moment
from tests.tui import sample
from tests.tui.recorded import RecordedServer, opened, recorded, screen_text, sees, until
from tests.tui.snapshots import check_snapshot, frozen_zone
from tui.dashboard.series import Series, rates, share, shares, sparkline
from tui.widgets.gauges import bar

__all__ = ["frozen_zone"]
NOW_S = sample.NOW_S


@pytest.fixture
async def server() -> AsyncIterator[RecordedServer]:
    async with recorded() as running:
        yield running


def at(server: RecordedServer, **options: Any) -> Any:
    return opened(server, "dashboard", **options)


def tokens(*counts: int, step_s: float = 2.0) -> list[Moment]:
    return [sample.moment(time_s=NOW_S + step_s * n, completion_tokens=count) for n, count in enumerate(counts)]


def busy_history() -> list[Moment]:
    """Ten minutes of a machine with a GPU; in the middle the server was started anew."""
    moments = []
    n_out = n_in = n_reused = n_hits = n_misses = 0
    for n in range(300):
        if n == 150:
            n_out = n_in = n_reused = n_hits = n_misses = 0
            continue
        n_out += round(40 * (1 + math.sin(n / 20)))
        n_in += 200 if n % 30 < 20 else 0
        n_reused += 90 if n % 30 < 20 else 0
        n_hits += n % 13 == 0
        n_misses += n % 9 == 0
        gpu = {
            "use_ratio": 0.5 + 0.4 * math.sin(n / 9),
            "used_bytes": 6 * sample.GIB,
            "temperature_c": 50 + n // 30,
            "power_w": 150 + 100 * math.sin(n / 9),
        }
        moment = sample.moment(
            time_s=NOW_S - 600 + 2 * n,
            completion_tokens=n_out,
            prompt_tokens=n_in,
            cached_tokens=n_reused,
            response_cache_hits=n_hits,
            response_cache_misses=n_misses,
            requests_running=round(2 + 2 * math.sin(n / 15)),
            requests_waiting=max(0, round(4 * math.sin(n / 40))),
            kv_used_tokens=round(4000 + 3500 * math.sin(n / 50)),
            cpu_ratio=0.5 + 0.45 * math.sin(n / 10),
            ram_used_bytes=round((4 + math.sin(n / 30)) * sample.GIB),
            ttft_p50_s=0.3 + 0.1 * math.sin(n / 30),
            tpot_p50_s=0.05 + 0.01 * math.sin(n / 12),
            net_sent_bytes=20_000 * n,
            net_received_bytes=100 * n * n,
            gpus=[gpu],
        )
        moments.append(moment)
    return moments


def busy_machine() -> Any:
    return sample.machine(
        gpus={
            "devices": [sample.gpu()],
            "driver_version": "580.1",
            "cuda_version": "13.0",
            "reason": None,
            "n_on_bus": 1,
        },
        disks=[sample.disk(), sample.disk(name="state_dir", path="/state", free_bytes=2 * sample.GIB)],
    )


# Curves


def test_a_rate_is_the_difference_of_counters_over_the_time_between() -> None:
    assert rates(tokens(0, 10, 10, 40), lambda moment: moment.completion_tokens) == (
        (NOW_S + 2, 5.0),
        (NOW_S + 4, 0.0),
        (NOW_S + 6, 15.0),
    )


def test_a_restart_is_a_gap_and_no_negative_rate() -> None:
    values = [value for _, value in rates(tokens(100, 140, 6, 26), lambda moment: moment.completion_tokens)]
    assert values == [20.0, None, 10.0]


def test_where_the_server_was_away_there_is_a_gap_though_it_has_done_more_since() -> None:
    assert rates(tokens(10, 500, step_s=60.0), lambda moment: moment.completion_tokens) == ((NOW_S + 60, None),)


def test_what_the_system_does_not_say_is_a_gap() -> None:
    history = [sample.moment(time_s=NOW_S + n, net_sent_bytes=None) for n in range(3)]
    assert [value for _, value in rates(history, lambda moment: moment.net_sent_bytes)] == [None, None]


def test_a_share_is_of_what_grew_and_nothing_where_nothing_did() -> None:
    def moment(n: int, hits: int, misses: int) -> Moment:
        return sample.moment(time_s=NOW_S + n, response_cache_hits=hits, response_cache_misses=misses)

    history = [moment(0, 5, 5), moment(1, 6, 8), moment(2, 6, 8), moment(3, 0, 0), moment(4, 1, 0)]
    figures = (lambda found: found.response_cache_hits, lambda found: found.response_cache_misses)
    assert [value for _, value in shares(history, *figures)] == [0.25, None, None, 1.0]
    assert share(history, *figures) == 0.4


def series(*values: float | None, step_s: float = 60.0) -> Series:
    return tuple((6000 + step_s * n, value) for n, value in enumerate(values))


def test_a_curve_ends_on_the_right_and_what_is_unknown_is_blank() -> None:
    assert sparkline(series(0.0, 1.0, None, 0.5), 10, top=1.0) == "      ▁█ ▅"


def test_what_is_little_looks_different_from_nothing() -> None:
    assert sparkline(series(0.0, 0.001), 10, top=1.0).strip() == "▁▂"


def test_a_curve_without_a_top_reaches_it() -> None:
    assert sparkline(series(10.0, 20.0), 10).strip() == "▅█"


def test_a_curve_moves_by_whole_cells() -> None:
    values = [float(n % 7) for n in range(300)]
    before = sparkline(series(*values, step_s=2.0), 30)
    after = sparkline(series(*values, 3.0, step_s=2.0), 30)
    assert before[2:-1] in after


@pytest.mark.parametrize("width", [-3, 0, 1, 7, 400])
def test_a_curve_has_the_width_it_was_given(width: int) -> None:
    assert len(sparkline(series(1.0, 2.0, 3.0), width)) == max(0, width)
    assert len(sparkline((), width)) == max(0, width)


def test_a_bar_shows_each_part_that_is_not_nothing() -> None:
    assert bar((("w", 0.5), ("k", 0.001), ("c", 0.0)), 10) == "wwwwwk...."
    assert bar((("w", 2.0),), 10) == "wwwwwwwwww"


# What is shown


async def test_what_the_machine_and_the_server_do_is_shown(server: RecordedServer) -> None:
    server.answer("GET", "/admin/history", sample.history(*tokens(0, 10, 30)))
    async with at(server, size=(200, 60)) as pilot:
        await sees(pilot, "Tokens out", "10.0/s", "TTFT", "0.25 / 0.50 / 1.00 s", "250 / 500 / 1000 ms")
        await sees(pilot, "25% of 4", "3 ||...  40%", "4.0 of 16.0 GiB 25%", "2.0 of 8.0 GiB 25%", "40.0 of 100.0 GiB")
        await sees(pilot, "No GPU can be used: no driver.")
        await sees(pilot, "small@11111111  ready", "688 MiB of 8.0 GiB", "w 400 MiB, k 96 MiB, c 128 MiB, o 64 MiB")


async def test_the_history_goes_on_from_where_it_was(server: RecordedServer) -> None:
    server.answer("GET", "/admin/history", sample.history(*tokens(0, 10)))
    async with at(server, size=(200, 60)) as pilot:
        await sees(pilot, "5.0/s")
        later = sample.moment(time_s=NOW_S + 4, completion_tokens=40)
        server.answer("GET", "/admin/history", sample.history(later))
        await sees(pilot, "15.0/s")
        assert float(server.of("GET", "/admin/history")[-1].query["since_s"]) >= NOW_S + 2


async def test_each_gpu_is_shown_and_a_lost_one_says_why(server: RecordedServer) -> None:
    gpus = {
        "devices": [sample.gpu(), sample.gpu(name="Another", lost="fell off the bus")],
        "driver_version": None,
        "cuda_version": None,
        "reason": None,
        "n_on_bus": 2,
    }
    server.answer("GET", "/admin/hardware", sample.machine(gpus=gpus))
    async with at(server, size=(200, 60)) as pilot:
        await sees(pilot, "0 A GPU", "50%", "6.0 of 24.0 GiB", "55 °C", "120 of 300 W")
        await sees(pilot, "1 Another", "! fell off the bus")


async def test_a_full_disk_is_marked_without_colours(server: RecordedServer) -> None:
    server.answer("GET", "/admin/hardware", sample.machine(disks=[sample.disk(free_bytes=sample.GIB)]))
    async with at(server, size=(200, 60)) as pilot:
        await sees(pilot, "! 99.0 of 100.0 GiB 99%")


async def test_a_server_that_has_no_model_and_no_history_yet_is_shown_too(server: RecordedServer) -> None:
    none_yet = sample.latencies(n_requests=0, queue_s=None, ttft_s=None, tpot_s=None, e2e_s=None)
    server.answer("GET", "/admin/status", sample.status(models=[], latencies=none_yet, response_cache=None))
    async with at(server) as pilot:
        await sees(pilot, "No model is loaded.", "the latest requests, if any come", "off")


async def test_all_of_it_is_reached_in_80_columns(server: RecordedServer) -> None:
    async with at(server) as pilot:
        await sees(pilot, "Tokens out", "CPU")
        await pilot.press("end")
        await sees(pilot, "Network in", "No GPU can be used")


async def test_what_was_known_stays_while_the_server_is_away(server: RecordedServer) -> None:
    async with at(server) as pilot:
        await sees(pilot, "Tokens out")
        await server.stop()
        await sees(pilot, "! No server answers")
        assert "Tokens out" in screen_text(pilot)
        await server.start()
        await until(pilot, lambda: "No server answers" not in screen_text(pilot))


@pytest.mark.usefixtures("frozen_zone")
@pytest.mark.parametrize(("name", "size"), [("dashboard", (140, 32)), ("dashboard-80", (80, 24))])
async def test_it_looks_as_in_the_readme(server: RecordedServer, tmp_path: Any, name: str, size: Any) -> None:
    server.answer("GET", "/admin/history", sample.history(*busy_history()))
    server.answer("GET", "/admin/hardware", busy_machine())
    async with at(server, size=size) as pilot:
        await sees(pilot, "Tokens out", "CPU")
        await check_snapshot(pilot, name, tmp_path)
