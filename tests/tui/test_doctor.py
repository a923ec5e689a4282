"""The doctor: what it finds, worst first, readable in 80 columns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from appliance.schemas.doctor import Diagnosis, Finding, diagnosis
from tests.gateway import run_gateway
from tests.tui.recorded import RecordedServer, is_told, opened, recorded, refusal, screen_text, sees
from tests.tui.snapshots import check_snapshot, frozen_zone

__all__ = ["frozen_zone"]


def found() -> Diagnosis:
    return diagnosis(
        [
            Finding(name="CPU", status="ok", message="AVX2 is there, and 4 cores."),
            Finding(
                name="Response cache",
                status="warning",
                message="The file has 98 MiB of its 100 MiB; the answers that were not asked for longest make way.",
                remedy="Set response_cache_max_bytes to more, or leave it so.",
            ),
            Finding(name="RAM", status="ok", message="6.0 GiB are free."),
            Finding(
                name="Models",
                status="failed",
                message="small@222222222222 is not what models.lock says: its sha256 is another one than was pinned.",
                remedy="Run `appliance models fetch` again, or `appliance models verify --deep` to see which.",
            ),
        ]
    )


@pytest.fixture
async def server() -> AsyncIterator[RecordedServer]:
    async with recorded() as running:
        running.answer("GET", "/admin/doctor", found())
        yield running


def at(server: RecordedServer, **options: Any) -> Any:
    return opened(server, "doctor", **options)


async def test_the_worst_comes_first_with_its_remedy(server: RecordedServer) -> None:
    async with at(server) as pilot:
        await pilot.press("r")
        await sees(pilot, "Something has failed.", "X failed", "-> Run `appliance models fetch`", "! warning", "  ok")
        lines = screen_text(pilot).splitlines()
        names = [line[11:26].strip() for line in lines if line[1:9] in ("X failed", "! warnin", "  ok    ")]
        assert names == ["Models", "Response cache", "CPU", "RAM"]


async def test_long_texts_are_wrapped_beside_the_names(server: RecordedServer) -> None:
    async with at(server) as pilot:
        await pilot.press("r")
        await sees(pilot, "Something has failed.", "RAM")
        lines = screen_text(pilot).splitlines()
        first = next(number for number, line in enumerate(lines) if "X failed" in line)
        column = lines[first].index("small@")
        assert lines[first + 1][:column].strip() == ""
        assert lines[first + 1][column:].strip()
        assert all(len(line) <= 80 for line in lines)


async def test_the_speed_is_measured_only_on_demand(server: RecordedServer) -> None:
    async with at(server) as pilot:
        gate = server.hold("GET", "/admin/doctor")
        await pilot.press("s")
        await sees(pilot, "takes up to a minute")
        gate.set()
        await sees(pilot, "Something has failed.")
        await pilot.press("r")
        await sees(pilot, "Something has failed.")
        assert [asked.query["speed"] for asked in server.of("GET", "/admin/doctor")] == ["true", "false"]


async def test_what_the_server_refuses_is_one_sentence(server: RecordedServer) -> None:
    server.answer("GET", "/admin/doctor", refusal(503, "the appliance is stopping", Retry_After="5"))
    async with at(server) as pilot:
        await pilot.press("r")
        await sees(pilot, "The appliance is stopping.")


async def test_the_findings_are_copied_whole(server: RecordedServer) -> None:
    async with at(server) as pilot:
        await pilot.press("c")
        await is_told(pilot, "Nothing was examined yet.")
        await pilot.press("r")
        await sees(pilot, "Something has failed.")
        await pilot.press("c")
        await is_told(pilot, "Copied the findings.")
        copied = pilot.app.clipboard.splitlines()
        assert copied[0] == "Something has failed."
        assert copied[1] == f"failed: Models: {found().findings[3].message}"
        assert copied[2] == f"  -> {found().findings[3].remedy}"


async def test_texts_from_the_server_are_not_taken_for_markup(server: RecordedServer) -> None:
    finding = Finding(name="[b]x", status="ok", message="a [red]b[/] [/nothing]")
    server.answer("GET", "/admin/doctor", diagnosis([finding]))
    async with at(server) as pilot:
        await pilot.press("r")
        await sees(pilot, "All is well.", "[b]x", "a [red]b[/] [/nothing]")


async def test_a_real_gateway_examines_itself() -> None:
    async with run_gateway() as gateway:
        key = gateway.admin["Authorization"].removeprefix("Bearer ")
        async with opened(gateway, "doctor", key=key, size=(120, 40)) as pilot:
            await pilot.press("r")
            await sees(pilot, "  ok")
            assert "Examining" not in screen_text(pilot)


async def test_it_looks_as_in_the_readme(server: RecordedServer, tmp_path: Any) -> None:
    async with at(server) as pilot:
        await pilot.press("r")
        await sees(pilot, "Something has failed.", "RAM")
        await check_snapshot(pilot, "doctor", tmp_path)
