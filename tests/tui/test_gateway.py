"""What changes a server, tried on a real gateway: what the screens ask for is what it does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from appliance.hardware.memory_use import MIB, RAM
from appliance.supervisor.supervisor import Rules
from tests.fake_models import digest
from tests.gateway import Gateway, run_gateway
from tests.response_cache import open_cache
from tests.tui.recorded import is_asked, is_told, opened, screen_text, sees, until


def at(gateway: Gateway, section: str, **options: Any) -> Any:
    return opened(gateway, section, key=gateway.admin["Authorization"].removeprefix("Bearer "), **options)


def key(name: str, version: int = 0) -> str:
    return f"{name}@{digest(name, version)[:12]}"


async def test_loading_one_model_evicts_another_as_the_plan_says(tmp_path: Path) -> None:
    may_load = tmp_path / "may-load"
    orders = {"b": {"load_until": str(may_load)}}
    sizes = {"a": 700 * MIB, "b": 700 * MIB}
    rules = Rules(max_wait_s=0.0)
    async with run_gateway(models=sizes, limits={RAM: 1200 * MIB}, orders=orders, rules=rules) as gateway:
        async with at(gateway, "models") as pilot:
            await sees(pilot, "> a", "ready", "stored")
            await pilot.press("down", "l")
            await is_asked(pilot)
            await sees(pilot, f"It fits once {key('a')} is unloaded.", "0 of 11 layers on GPUs", "700 MiB")
            await pilot.press("y")
            await sees(pilot, "loading")
            may_load.touch()
            await is_told(pilot, f"{key('b')} is ready.")
            await until(pilot, lambda: gateway.supervisor.hosts[key("a")].state == "stored")
            await sees(pilot, "ready", "stored")
            await pilot.press("u")
            await is_asked(pilot)
            await sees(pilot, "No request is open", "RAM")
            await pilot.press("y")
            await is_told(pilot, f"{key('b')} is unloaded.")
            assert gateway.supervisor.hosts[key("b")].client is None


async def test_what_does_not_fit_is_told_in_the_servers_words() -> None:
    sizes = {"a": 700 * MIB, "b": 2000 * MIB}
    async with run_gateway(models=sizes, limits={RAM: 1200 * MIB}) as gateway, at(gateway, "models") as pilot:
        await sees(pilot, "> a", "ready")
        await pilot.press("down", "l")
        await is_asked(pilot)
        await sees(pilot, "! It does not fit:", "Close (n)")


async def test_a_version_is_chosen_and_taken_back_while_the_model_serves() -> None:
    async with run_gateway(models={"a": 0}, n_versions=2) as gateway, at(gateway, "models") as pilot:
        await sees(pilot, "> a", "ready", "stored")
        await pilot.press("p")
        await is_told(pilot, "a is pinned")
        await pilot.press("down", "v")
        await is_asked(pilot)
        await sees(pilot, f"{key('a')} serves on until it is ready.")
        await pilot.press("y")
        await is_told(pilot, f"{key('a', 1)} is served now.")
        assert gateway.state.catalog.resolve("a").spec.key == key("a", 1)
        await sees(pilot, "previous")
        await pilot.press("b")
        await is_asked(pilot)
        await pilot.press("y")
        await is_told(pilot, f"{key('a')} is served now.")
        assert gateway.state.catalog.resolve("a").spec.key == key("a")


async def test_a_request_is_cancelled_and_its_client_gets_an_error() -> None:
    orders: dict[str, dict[str, Any]] = {"a": {"step_s": 0.05}}
    async with run_gateway(models={"a": 0}, orders=orders) as gateway, at(gateway, "requests") as pilot:
        asking = asyncio.create_task(gateway.chat("a", max_tokens=200, ignore_eos=True))
        await sees(pilot, "1 open request", "decode")
        await pilot.press("x")
        await is_asked(pilot)
        await pilot.press("y")
        await is_told(pilot, "is cancelled.")
        answer = await asking
        assert answer.status_code >= 400
        await sees(pilot, "No request waits or runs", "1 ended lately", answer.json()["error"]["code"])


async def test_answers_are_purged_from_a_real_cache(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache, run_gateway(models={"a": 0, "b": 0}, cache=cache) as gateway:
        for content in ("a", "b", "a"):
            assert (await gateway.chat(content)).status_code == 200
        async with at(gateway, "cache") as pilot:
            await sees(pilot, "hits 1, joined 0, misses 2", "33%", "2 answers")
            await pilot.press("x")
            await is_asked(pilot)
            await pilot.press("y")
            await is_told(pilot, "Removed 2 answers.")
            await sees(pilot, "No answer is stored")
            await pilot.press("v")
            await is_asked(pilot)
            await pilot.press("y")
            await is_told(pilot, "The file has")
            assert "> a" not in screen_text(pilot)


async def test_a_cache_that_is_off_says_how_to_turn_it_on() -> None:
    async with run_gateway() as gateway, at(gateway, "cache") as pilot:
        await sees(pilot, "The response cache is off; set response_cache to true")
