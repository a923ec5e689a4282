"""What loading a model would do: told by the rules that load it, and nothing is done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.hardware.memory_use import RAM
from appliance.supervisor.supervisor import Rules
from tests.api.admin import BIG, done, error, get, post, states
from tests.api.commands import run
from tests.fake_models import digest
from tests.gateway import Gateway, run_gateway
from tests.machine_room import MIB, until

KEY = {name: f"{name}@{digest(name)[:12]}" for name in ("a", "b", "c", "small", "huge")}


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """Of its two large models one fits, and one is larger than the machine. The first is loaded."""
    sizes = {"a": BIG, "b": BIG, "small": 10 * MIB, "huge": 9000 * MIB}
    async with run_gateway(models=sizes, limits={RAM: 1200 * MIB}, rules=Rules(max_wait_s=0.0)) as running:
        yield running


async def test_a_plan_says_who_makes_way_and_how_the_model_would_lie_and_does_nothing(gateway: Gateway) -> None:
    plan = await get(gateway, "/admin/models/b/plan")
    assert (plan["model"], plan["fits"], plan["error"], plan["was_loaded"]) == (KEY["b"], True, None, False)
    assert plan["evicted"] == [KEY["a"]]
    assert plan["run"]["n_ctx"] == 256
    assert plan["reasons"] == ["n_ctx=256: what the model was trained for"]
    (ram,) = plan["devices"]
    assert (ram["device"], ram["layers"], ram["measured"]) == (RAM, 11, None)
    assert ram["estimated"]["weights_bytes"] == BIG
    parts = ("weights_bytes", "kv_bytes", "compute_bytes", "overhead_bytes")
    assert ram["estimated"]["total_bytes"] == sum(ram["estimated"][part] for part in parts)
    # One goes, and one of the same size comes.
    assert ram["free_bytes"] == ram["free_then_bytes"] == 1200 * MIB - ram["estimated"]["total_bytes"]
    assert await states(gateway) == {"a": "ready"}


async def test_what_a_plan_says_is_what_a_load_does(gateway: Gateway) -> None:
    for name in ("small", "b", "a"):
        plan = await get(gateway, f"/admin/models/{name}/plan")
        before = {host.key for host in gateway.supervisor.hosts.values() if host.client is not None}
        await done(gateway, f"{name}/load")
        after = {host.key for host in gateway.supervisor.hosts.values() if host.client is not None}
        assert plan["evicted"] == sorted(before - after)
        assert [d["free_then_bytes"] for d in plan["devices"]] == [
            room.free_bytes for room in gateway.supervisor.ledger.rooms()
        ]
        engine = next(m for m in (await get(gateway, "/admin/status"))["models"] if m["name"] == name)["engine"]
        assert engine["reasons"] == plan["reasons"]
        assert sum(engine["memory"][RAM].values()) == plan["devices"][0]["estimated"]["total_bytes"]


async def test_what_fits_beside_the_others_evicts_nobody(gateway: Gateway) -> None:
    plan = await get(gateway, "/admin/models/small/plan")
    (ram,) = plan["devices"]
    assert (plan["fits"], plan["evicted"]) == (True, [])
    assert ram["free_then_bytes"] == ram["free_bytes"] - ram["estimated"]["total_bytes"]


async def test_a_loaded_model_is_there_already(gateway: Gateway) -> None:
    plan = await get(gateway, "/admin/models/a/plan")
    (ram,) = plan["devices"]
    assert (plan["fits"], plan["was_loaded"], plan["evicted"], ram["layers"]) == (True, True, [], 11)
    assert ram["free_then_bytes"] == ram["free_bytes"]


async def test_a_model_that_is_being_loaded_evicts_nobody_more(tmp_path: Path) -> None:
    orders = {"b": {"load_until": str(tmp_path / "loaded")}}
    async with run_gateway(models={"a": 0, "b": 0}, orders=orders) as gateway:
        host = gateway.supervisor.host(gateway.state.catalog.resolve("b").spec)
        gateway.supervisor.preload(host.spec)
        await until(lambda: host.state == "loading")
        assert (await get(gateway, "/admin/models/b/plan"))["was_loaded"]
        (tmp_path / "loaded").touch()


@pytest.mark.parametrize("pins", [(), ("a",)])
async def test_a_refusal_has_the_words_of_a_load_that_is_refused(gateway: Gateway, pins: tuple[str, ...]) -> None:
    for name in pins:
        await done(gateway, f"{name}/pin")
    name = "b" if pins else "huge"
    plan = await get(gateway, f"/admin/models/{name}/plan")
    assert (plan["fits"], plan["run"], plan["evicted"], plan["reasons"]) == (False, None, [], [])
    assert error(await post(gateway, f"{name}/load"))[2] == plan["error"]
    assert ("Pinned, so that they make no way: a@" in plan["error"]) == bool(pins)
    (ram,) = plan["devices"]
    assert (ram["layers"], ram["estimated"]) == (0, None)
    assert 0 < ram["free_bytes"] == ram["free_then_bytes"]


async def test_layers_are_told_for_each_device() -> None:
    limits = {RAM: 4000 * MIB, "CUDA0": 1200 * MIB}
    async with run_gateway(models={"c": 1000 * MIB}, limits=limits, is_loaded=False) as gateway:
        plan = await get(gateway, "/admin/models/c/plan")
        ram, gpu = plan["devices"]
        assert (ram["device"], gpu["device"]) == (RAM, "CUDA0")
        assert ram["layers"] + gpu["layers"] == 11
        assert 0 < gpu["layers"] == plan["run"]["n_gpu_layers"]
        assert gpu["free_then_bytes"] == gpu["free_bytes"] - gpu["estimated"]["total_bytes"]


async def test_each_version_has_its_plan() -> None:
    async with run_gateway(models={"a": 0}, n_versions=2) as gateway:
        old = digest("a", 1)[:12]
        plan = await get(gateway, f"/admin/models/a@{old[:6]}/plan")
        assert (plan["model"], plan["was_loaded"]) == (f"a@{old}", False)


async def test_a_model_that_there_is_not_has_no_plan(gateway: Gateway) -> None:
    for name in ("nosuch", "a@0000", "a%2Fb", "%00"):
        response = await gateway.http.get(f"/admin/models/{name}/plan", headers=gateway.admin)
        assert error(response)[:2] == (404, "model_not_found"), name
    response = await gateway.http.get("/admin/models//plan", headers=gateway.admin)
    assert error(response)[:2] == (400, "invalid_value")


async def test_the_command_shows_the_plan_and_ends_with_status_1_if_it_does_not_fit(gateway: Gateway) -> None:
    said = await run(gateway, "models", "plan", "b")
    lines = said.out.splitlines()
    assert (said.status, said.error) == (0, "")
    assert lines[0] == "with 360 MiB of RAM, no GPU, beside what is loaded:"
    assert lines[2:5] == [
        f"{KEY['b']}  F32",
        f"  would unload {KEY['a']}",
        "  n_ctx=256: what the model was trained for",
    ]
    device, layers, *sizes = lines[6].split()
    assert (device, layers, sizes[:2], sizes[-3:]) == ("RAM", "11", ["800", "MiB"], ["840", "MiB", "-"])
    assert lines[-1] == "then free    360 MiB of RAM, no GPU"
    assert "is loaded already" in (await run(gateway, "models", "plan", "a")).out
    refused = await run(gateway, "models", "plan", "huge")
    assert refused.status == 1
    assert "does not fit: huge: the model, even with n_ctx=256, wants" in refused.out
    as_json = await run(gateway, "models", "plan", "huge", "--json")
    assert as_json.status == 1
    assert json.loads(as_json.out) == await get(gateway, "/admin/models/huge/plan")


async def test_a_plan_is_no_business_of_who_has_no_admin_token(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sk-0123456789abcdef name=app\n")
    app = {"Authorization": "Bearer sk-0123456789abcdef"}
    async with run_gateway(models={"a": 0}, keys=keys) as gateway:
        assert (await gateway.http.get("/admin/models/a/plan")).status_code == 401
        assert (await gateway.http.get("/admin/models/a/plan", headers=app)).status_code == 403


async def test_a_model_that_makes_way_can_come_back_without_another_s_place(gateway: Gateway) -> None:
    host = gateway.host
    async with host.engine():
        draining = asyncio.create_task(gateway.supervisor.unload(host.key, "operator"))
        await until(lambda: host.state == "draining")
        plan = await get(gateway, "/admin/models/a/plan")
        assert (plan["was_loaded"], plan["fits"], plan["evicted"]) == (False, True, [])
    await draining
