"""What /health/ready says of the default model and of each other one."""

from __future__ import annotations

import asyncio
from pathlib import Path

from appliance.supervisor.supervisor import Rules
from tests.api.admin import ONE_FITS, TWO, done
from tests.gateway import Gateway, run_gateway
from tests.machine_room import until


async def ready(gateway: Gateway) -> tuple[int, str, dict[str, str]]:
    response = await gateway.http.get("/health/ready")
    body = response.json()
    return response.status_code, body["status"], body["models"]


async def test_it_is_ready_while_the_default_is_away_for_another_model() -> None:
    async with run_gateway(**ONE_FITS) as gateway:
        assert (await gateway.chat(model="b")).status_code == 200
        assert await ready(gateway) == (200, "ready", {"a": "stored", "b": "ready"})


async def test_without_autoload_it_is_not_ready_while_the_default_is_away() -> None:
    async with run_gateway(models=TWO, rules=Rules(autoload=False)) as gateway:
        assert (await ready(gateway))[:2] == (200, "ready")
        await done(gateway, "a/unload")
        assert await ready(gateway) == (503, "stored", {"a": "stored"})


async def test_it_is_not_ready_while_the_default_loads_for_the_first_time(tmp_path: Path) -> None:
    loaded = tmp_path / "loaded"
    async with run_gateway(orders={"fake": {"load_until": str(loaded)}}, is_loaded=False) as gateway:
        asked = asyncio.create_task(gateway.chat())
        await until(lambda: any(host.state == "loading" for host in gateway.supervisor.hosts.values()))
        assert await ready(gateway) == (503, "loading", {"fake": "loading"})
        loaded.touch()
        assert (await asked).status_code == 200
        assert await ready(gateway) == (200, "ready", {"fake": "ready"})


async def test_it_is_not_ready_while_the_default_can_not_be_loaded_and_says_why() -> None:
    async with run_gateway(models=TWO, orders={"a": {"fail": "no luck"}}, is_loaded=False) as gateway:
        assert (await gateway.chat()).status_code == 503
        assert (await gateway.chat(model="b")).status_code == 200
        response = await gateway.http.get("/health/ready")
        assert (response.status_code, response.json()) == (
            503,
            {"status": "failed", "model": "a", "models": {"a": "failed", "b": "ready"}, "error": "no luck"},
        )


async def test_it_is_not_ready_while_the_default_does_not_fit_and_is_again_once_it_would() -> None:
    async with run_gateway(**ONE_FITS, is_loaded=False) as gateway:
        await done(gateway, "b/load")
        await done(gateway, "b/pin")
        assert (await gateway.chat()).status_code == 503
        assert await ready(gateway) == (503, "failed", {"a": "failed", "b": "ready"})
        await done(gateway, "b/unpin")
        assert await ready(gateway) == (200, "ready", {"a": "stored", "b": "ready"})
