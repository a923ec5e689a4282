"""The models: what is shown of them, and that what changes them asks first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from appliance.schemas.admin import ModelList, Version
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
from tui.widgets.confirm import Confirm

SMALL, OLDER, LARGE = "small@111111111111", "small@222222222222", "large@333333333333"


@pytest.fixture
async def server() -> AsyncIterator[RecordedServer]:
    async with recorded() as running:
        running.answer("GET", f"/admin/models/{LARGE}/plan", sample.plan())
        yield running


def at(server: RecordedServer, **options: Any) -> Any:
    return opened(server, "models", **options)


def list_models(server: RecordedServer, *versions: Version) -> None:
    server.answer("GET", "/admin/models", ModelList(models=list(versions)))


async def test_every_version_of_the_lock_is_shown_with_what_it_is(server: RecordedServer) -> None:
    list_models(
        server,
        sample.version(is_current=True, is_default=True, is_pinned=True, status=sample.model_status()),
        sample.version(name="gone", version="444444444444", problem="it is not stored", size_bytes=None),
        sample.version(name="bad", version="5" * 12, status=sample.model_status(state="failed", error="it is broken")),
        sample.version(name="old", version="6" * 12, is_previous=True, kl_divergence=None),
    )
    async with at(server, size=(200, 60)) as pilot:
        await sees(pilot, "default, pinned", "absent", "failed", "previous")
        row = next(line for line in screen_text(pilot).splitlines() if "11111111 " in line)
        assert (
            row.split() == "> small 11111111 ready default, pinned 400 MiB Q4_0 8k 0.0123 apache-2.0 acme/small".split()
        )


async def test_the_details_are_those_of_the_row_with_the_cursor(server: RecordedServer) -> None:
    async with at(server) as pilot:
        await sees(pilot, SMALL, "RAM 688 MiB: weights 400 MiB, KV 96 MiB", "licence apache-2.0")
        await pilot.press("down", "down")
        await sees(pilot, LARGE, "Slow and good", "8.0 billion parameters")


async def test_a_model_that_embeds_says_so(server: RecordedServer) -> None:
    list_models(server, sample.version(kind="embedding"))
    async with at(server) as pilot:
        await sees(pilot, "embedding model, Q4_0")


async def test_what_a_name_says_is_neither_markup_nor_obeyed_by_the_terminal(server: RecordedServer) -> None:
    list_models(server, sample.version(name="[red]x\x1b[2J\ny", description="[bold]\x1b]0;title\x07"))
    async with at(server) as pilot:
        await sees(pilot, "[red]x?[2J y", "[bold]?]0;title?")


async def test_loading_shows_what_it_would_do_and_asks(server: RecordedServer) -> None:
    server.answer("POST", f"/admin/models/{LARGE}/load", sample.model_status(name="large"))
    async with at(server) as pilot:
        await sees(pilot, "large")
        await pilot.press("down", "down", "l")
        await is_asked(pilot)
        await sees(
            pilot, f"It fits once {SMALL} is unloaded", "0 of 33 layers on GPUs", "6.4 GiB", "6.0 GiB", "200 MiB"
        )
        assert not server.of("POST")
        await pilot.press("y")
        await is_told(pilot, f"{LARGE} is ready.")
        assert [asked.path for asked in server.of("POST")] == [f"/admin/models/{LARGE}/load"]


@pytest.mark.parametrize("key", ["n", "escape", "enter"])
async def test_the_answer_that_has_the_focus_does_nothing(server: RecordedServer, key: str) -> None:
    async with at(server) as pilot:
        await sees(pilot, "large")
        await pilot.press("down", "down", "l")
        await is_asked(pilot)
        await pilot.press(key)
        await until(pilot, lambda: not isinstance(pilot.app.screen, Confirm))
        assert not server.of("POST")


async def test_the_mouse_chooses_and_answers(server: RecordedServer) -> None:
    server.answer("POST", f"/admin/models/{LARGE}/load", sample.model_status(name="large"))
    async with at(server) as pilot:
        await sees(pilot, "large")
        await pilot.click("#models", offset=(5, 3), times=2)
        await is_asked(pilot)
        await pilot.click("#yes")
        await is_told(pilot, f"{LARGE} is ready.")


async def test_what_does_not_fit_can_only_be_read(server: RecordedServer) -> None:
    refused = sample.plan(fits=False, error="it needs 9 GiB, and 6 GiB are free", evicted=[], run=None, reasons=[])
    server.answer("GET", f"/admin/models/{LARGE}/plan", refused)
    async with at(server) as pilot:
        await sees(pilot, "large")
        await pilot.press("down", "down", "l")
        await sees(pilot, "! It does not fit: it needs 9 GiB, and 6 GiB are free.", "Close (n)")
        await pilot.press("y")
        assert isinstance(pilot.app.screen, Confirm)
        await pilot.press("n")
        assert not server.of("POST")


async def test_progress_is_shown_as_it_is_told(server: RecordedServer) -> None:
    gate = server.hold("POST", f"/admin/models/{LARGE}/load")
    server.answer("POST", f"/admin/models/{LARGE}/load", sample.model_status(name="large"))
    async with at(server) as pilot:
        await sees(pilot, "large")
        await pilot.press("down", "down", "l")
        await is_asked(pilot)
        await pilot.press("y")
        for ratio in (0.25, 0.75):
            loading = sample.model_status(name="large", state="loading", load_ratio=ratio)
            list_models(server, sample.version(name="large", version="333333333333", status=loading))
            server.push("/admin/events", {"event": "progress", "model": "large", "load_ratio": ratio})
            await sees(pilot, f"loading {ratio:.0%}", "#" * int(30 * ratio))
        gate.set()
        await is_told(pilot, f"{LARGE} is ready.")


async def test_a_model_that_is_waited_for_says_so(server: RecordedServer) -> None:
    waiting = sample.model_status(name="large", state="stored", requests_waiting=1)
    list_models(server, sample.version(name="large", status=waiting))
    async with at(server) as pilot:
        await sees(pilot, "waiting", "1 request waits for it to be loaded")


async def test_unloading_says_how_many_requests_are_open(server: RecordedServer) -> None:
    list_models(server, sample.version(is_current=True, status=sample.model_status(requests=3)))
    server.answer("POST", f"/admin/models/{SMALL}/unload", sample.model_status(state="stored"))
    async with at(server) as pilot:
        await sees(pilot, "small")
        await pilot.press("u")
        await is_asked(pilot)
        await sees(pilot, "3 open requests", "RAM 688 MiB")
        await pilot.press("y")
        await is_told(pilot, f"{SMALL} is unloaded.")


async def test_what_is_not_loaded_is_not_unloaded(server: RecordedServer) -> None:
    async with at(server) as pilot:
        await sees(pilot, "large")
        await pilot.press("down", "down", "u")
        await is_told(pilot, f"{LARGE} is not loaded.")
        assert not server.of("POST")


async def test_pin_and_unpin_and_the_default(server: RecordedServer) -> None:
    for verb in ("pin", "unpin", "default"):
        server.answer("POST", f"/admin/models/small/{verb}", sample.model_status())
    async with at(server) as pilot:
        await sees(pilot, "small")
        await pilot.press("p", "d")
        await is_told(pilot, "small is pinned")
        await is_told(pilot, "Requests that name no model get small now.")
        list_models(server, sample.version(is_current=True, is_pinned=True))
        await sees(pilot, "current, pinned")
        await pilot.press("p")
        await is_told(pilot, "small makes way for others again.")
        assert [asked.path.rsplit("/")[-1] for asked in server.of("POST")] == ["pin", "default", "unpin"]


async def test_another_version_is_chosen_after_its_plan(server: RecordedServer) -> None:
    server.answer("GET", f"/admin/models/{OLDER}/plan", sample.plan(model=OLDER, evicted=[]))
    server.answer("POST", "/admin/models/small/use", sample.model_status(version="222222222222"))
    async with at(server) as pilot:
        await sees(pilot, "22222222")
        await pilot.press("down", "v")
        await is_asked(pilot)
        await sees(pilot, f"Serve {OLDER} from now on?", f"{SMALL} serves on until it is ready.", "It fits; no other")
        await pilot.press("y")
        await is_told(pilot, f"{OLDER} is served now.")
        assert server.of("POST")[0].body == {"version": "222222222222"}


async def test_rolling_back_names_the_version_that_was_before(server: RecordedServer) -> None:
    server.answer("GET", f"/admin/models/{OLDER}/plan", sample.plan(model=OLDER))
    server.answer("POST", "/admin/models/small/use", sample.model_status(version="222222222222"))
    async with at(server) as pilot:
        await sees(pilot, "small")
        await pilot.press("b")
        await is_asked(pilot)
        await sees(pilot, f"Serve {OLDER} from now on?")
        assert "serves on" not in screen_text(pilot)  # it makes way, says the plan
        await pilot.press("y")
        await is_told(pilot, f"{OLDER} is served now.")
        assert server.of("POST")[0].body == {"version": "previous"}


async def test_there_may_be_nothing_to_go_back_to(server: RecordedServer) -> None:
    async with at(server) as pilot:
        await sees(pilot, "large")
        await pilot.press("down", "down", "b")
        await is_told(pilot, "large has no version to go back to")


async def test_a_question_for_a_section_that_was_left_is_not_asked(server: RecordedServer) -> None:
    gate = server.hold("GET", f"/admin/models/{LARGE}/plan")
    async with at(server) as pilot:
        await sees(pilot, "large")
        await pilot.press("down", "down", "l")
        await until(pilot, lambda: server.of("GET", f"/admin/models/{LARGE}/plan"))
        await pilot.press("f8")
        gate.set()
        await until(pilot, lambda: all(worker.group != "ask" for worker in pilot.app.workers))
        await sees(pilot, "[Doctor]")
        assert not isinstance(pilot.app.screen, Confirm)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (refusal(503, "the server is stopping"), "The server is stopping."),
        (refusal(429, "100 requests wait for it already"), "100 requests wait for it already."),
        (Answer(b"<html>"), "answers otherwise than this terminal UI expects"),
        (Answer({"name": "large"}), "answers otherwise than this terminal UI expects"),
        (Answer(b"\xff\xfe", 500), "is not the appliance"),
        (Answer([], 502), "is not the appliance"),
    ],
)
@pytest.mark.parametrize("at_plan", [True, False])
async def test_bad_answers_are_one_sentence(
    server: RecordedServer, answer: Answer, sentence: str, at_plan: bool
) -> None:
    verb, path = ("GET", "plan") if at_plan else ("POST", "load")
    server.answer(verb, f"/admin/models/{LARGE}/{path}", answer)
    async with at(server) as pilot:
        await sees(pilot, "large")
        await pilot.press("down", "down", "l")
        if not at_plan:
            await is_asked(pilot)
            await pilot.press("y")
        await is_told(pilot, sentence)
        await pilot.press("up")  # it goes on
        await sees(pilot, OLDER)


@pytest.mark.parametrize("verb", ["load", "unload", "use", "default", "pin"])
async def test_a_server_that_is_lost_in_the_middle_comes_back(server: RecordedServer, verb: str) -> None:
    for name in (LARGE, SMALL, "small"):
        server.hold("POST", f"/admin/models/{name}/{verb}")
    server.answer("GET", f"/admin/models/{OLDER}/plan", sample.plan(model=OLDER))
    keys = {"load": ("down", "down", "l"), "unload": ("u",), "use": ("down", "v"), "default": ("d",), "pin": ("p",)}
    async with at(server) as pilot:
        await sees(pilot, "large")
        await pilot.press(*keys[verb])
        if verb in ("load", "unload", "use"):
            await is_asked(pilot)
            await pilot.press("y")
        await until(pilot, lambda: server.of("POST"))
        await server.stop()
        await is_told(pilot, "broke")
        await sees(pilot, "No server answers", "large")
        list_models(server, sample.version(name="newer", version="777777777777"))
        await server.start()
        await sees(pilot, "newer@777777777777")
        assert "No server answers" not in screen_text(pilot)


async def test_a_server_that_is_lost_before_the_answer_is_told_so(server: RecordedServer) -> None:
    async with at(server) as pilot:
        await sees(pilot, "large")
        await pilot.press("down", "down", "l")
        await is_asked(pilot)
        await server.stop()
        await pilot.press("y")
        await is_told(pilot, "No server answers")


def many(server: RecordedServer) -> None:
    """A machine's models in all states."""
    ready = sample.model_status(is_default=True, requests=2)
    loading = sample.model_status(name="large", state="loading", load_ratio=0.45)
    failed = sample.model_status(name="coder", state="failed", error="llama.cpp could not load it", retry_in_s=12.0)
    list_models(
        server,
        sample.version(is_current=True, is_default=True, is_pinned=True, status=ready),
        sample.models().models[1],
        sample.models().models[2].model_copy(update={"state": "loading", "status": loading}),
        sample.version(name="coder", version="444444444444", is_current=True, aliases=["acme/coder"], status=failed),
        sample.version(name="embedder", version="555555555555", problem="the model embedder is not in /models"),
    )


async def test_they_look_well(server: RecordedServer, tmp_path: Path) -> None:
    many(server)
    async with at(server, size=(120, 32)) as pilot:
        await sees(pilot, "loading 45%", "failed")
        await check_snapshot(pilot, "models", tmp_path)


async def test_a_plan_looks_well(server: RecordedServer, tmp_path: Path) -> None:
    on_both = sample.plan(
        run=sample.plan().run.model_copy(update={"n_gpu_layers": 20}),  # type: ignore[union-attr]
        devices=[sample.device_plan(layers=13), sample.device_plan(device="CUDA0", layers=20)],
    )
    server.answer("GET", f"/admin/models/{LARGE}/plan", on_both)
    async with at(server) as pilot:
        await sees(pilot, "large")
        await pilot.press("down", "down", "l")
        await is_asked(pilot)
        await check_snapshot(pilot, "models-plan", tmp_path)
