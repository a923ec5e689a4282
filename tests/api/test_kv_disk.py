"""Computed prefixes on disk, as clients and operators meet them: engine processes end, and others come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.cli.engine import spawner
from appliance.engine.kv_folder import usage
from appliance.engine.kv_messages import WarmTierConfig
from appliance.engine.messages import EngineConfig
from appliance.errors import ConfigError
from appliance.settings import Settings
from tests.api.admin import get
from tests.api.commands import run
from tests.gateway import Gateway, engine_config, run_gateway

PROMPT = "1" * 400


def config(root: Path) -> EngineConfig:
    warm_tier = WarmTierConfig(str(root), 1 << 30, "5ha")
    return msgspec.structs.replace(engine_config(n_ctx=2000), warm_tier=warm_tier)


async def cached_tokens(gateway: Gateway, prompt: str = PROMPT) -> int:
    body = {"prompt": prompt, "max_tokens": 2}
    response = await gateway.http.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    found: Any = response.json()
    assert found["choices"][0]["text"] == "ab"
    cached: int = found["usage"]["prompt_tokens_details"]["cached_tokens"]
    return cached


async def test_a_prompt_is_not_computed_again_after_a_restart(tmp_path: Path) -> None:
    async with run_gateway(config(tmp_path)) as gateway:
        assert await cached_tokens(gateway) == 0
    async with run_gateway(config(tmp_path)) as gateway:
        assert await cached_tokens(gateway) == 399
        found = await get(gateway, "/admin/kv-disk")
        metrics = (await gateway.http.get("/metrics")).text
    assert (found["restored"], found["restored_tokens"], found["rejected"]) == (1, 399, {})
    assert 'appliance_kv_disk_restored_tokens_total{model_name="fake"} 399.0' in metrics
    assert f'appliance_kv_disk_bytes{{model_name="fake"}} {usage(tmp_path).n_bytes}.0' in metrics


async def test_nor_after_its_model_has_made_way_and_come_back(tmp_path: Path) -> None:
    async with run_gateway(config(tmp_path)) as gateway:
        await cached_tokens(gateway)
        for action in ("unload", "load"):
            response = await gateway.http.post(f"/admin/models/fake/{action}", headers=gateway.admin)
            assert response.status_code == 200
        assert await cached_tokens(gateway) == 399


async def test_a_damaged_file_is_counted_and_its_prompt_computed(tmp_path: Path) -> None:
    async with run_gateway(config(tmp_path)) as gateway:
        await cached_tokens(gateway)
    (path,) = tmp_path.rglob("*.kv")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    async with run_gateway(config(tmp_path)) as gateway:
        assert await cached_tokens(gateway) == 0
        assert (await get(gateway, "/admin/kv-disk"))["rejected"] == {"damaged": 1}
        metrics = (await gateway.http.get("/metrics")).text
    assert 'appliance_kv_disk_rejected_total{model_name="fake",reason="damaged"} 1.0' in metrics


async def test_the_commands_show_and_remove_what_there_is() -> None:
    async with run_gateway() as gateway:
        root = gateway.state.config.state_dir / "kv"
        for name in ("a", "b"):
            (root / name).mkdir(parents=True)
            (root / name / f"{name}.kv").write_bytes(bytes(1024))
        assert (await run(gateway, "kv-disk", "stats")).out.splitlines() == [
            f"folder     {root}",
            "used       2 KiB of 4.0 GiB, in 2 files",
            "saved      0 prefixes; 0 could not be written",
            "used again 0 prefixes, 0 tokens",
            "rejected   none",
        ]
        assert (await run(gateway, "kv-disk", "purge")).out == "removed 2 files, 2 KiB\n"
        assert usage(root).n_files == 0
        assert (
            await run(gateway, "kv-disk", "purge", "--json")
        ).out.split() == '{ "files": 0, "used_bytes": 0 }'.split()


def test_a_limit_that_is_no_size_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="kv_disk_limit=much: want a size"):
        spawner(Settings(kv_disk_limit="much"), log_level="info")
