"""Models at run time, as an administrator changes and watches them over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.hardware.memory_use import RAM
from appliance.models.store import ModelStore
from appliance.service.catalog import Catalog
from tests.api.admin import ONE_FITS, done, error, get, post, states
from tests.fake_models import digest
from tests.gateway import Gateway, run_gateway
from tests.machine_room import MIB, until


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with run_gateway(models={"a": 0, "b": 0, "c": 0}) as running:
        yield running


async def test_every_version_of_the_lock_is_listed_with_what_its_engine_does(gateway: Gateway) -> None:
    models = (await get(gateway, "/admin/models"))["models"]
    assert [(m["name"], m["is_current"], m["is_default"], m["problem"]) for m in models] == [
        ("a", True, True, None),
        ("b", True, False, None),
        ("c", True, False, None),
    ]
    assert [m["status"] and m["status"]["state"] for m in models] == ["ready", None, None]
    assert [m["state"] for m in models] == ["ready", "stored", "stored"]


async def test_a_model_that_can_not_be_served_is_listed_with_the_reason(gateway: Gateway) -> None:
    (gateway.state.config.models_dir / "c" / digest("c")[:12] / "record.json").unlink()
    models = (await get(gateway, "/admin/models"))["models"]
    assert [m["problem"] is None for m in models] == [True, True, False]
    assert [m["state"] for m in models] == ["ready", "stored", "absent"]
    assert error(await post(gateway, "c/load"))[:2] == (404, "model_not_found")


async def test_a_model_is_loaded_when_the_answer_comes_and_unloaded_again(gateway: Gateway) -> None:
    assert (await done(gateway, "b/load"))["state"] == "ready"
    assert await states(gateway) == {"a": "ready", "b": "ready"}
    assert (await done(gateway, "b/load"))["state"] == "ready"  # as it is
    assert (await done(gateway, "b/unload"))["state"] == "stored"
    assert (await done(gateway, "b/unload"))["state"] == "stored"
    assert (await gateway.chat(model="b")).status_code == 200  # which loads it


async def test_a_load_that_does_not_fit_says_so_with_the_numbers() -> None:
    async with run_gateway(models={"a": 0, "huge": 5000 * MIB}, limits={RAM: 1000 * MIB}) as gateway:
        status, code, message = error(await post(gateway, "huge/load"))
        assert (status, code) == (503, "does_not_fit")
        assert "GiB" in message
        assert (await gateway.chat()).status_code == 200


async def test_a_load_that_fails_says_why() -> None:
    async with run_gateway(models={"a": 0, "b": 0}, orders={"b": {"fail": "the file is cut off"}}) as gateway:
        response = await post(gateway, "b/load")
        status, code, message = error(response)
        assert (status, code) == (503, "engine_unavailable")
        assert message == "the model b can't be loaded: the file is cut off"
        assert int(response.headers["Retry-After"]) > 0
        model = (await get(gateway, "/admin/status"))["models"][1]
        assert (model["state"], model["error"], model["engine"]) == ("failed", "the file is cut off", None)


async def test_a_pin_is_kept_and_holds() -> None:
    async with run_gateway(**ONE_FITS) as gateway:
        assert (await done(gateway, "a/pin"))["is_pinned"]
        status, code, message = error(await gateway.chat(model="b"))
        assert (status, code) == (503, "does_not_fit")
        assert "Pinned, so that they make no way: a@" in message
        assert Catalog(gateway.state.config, ModelStore(gateway.state.config.models_dir)).resolve("a").spec.is_pinned
        assert not (await done(gateway, "a/unpin"))["is_pinned"]
        assert (await gateway.chat(model="b")).status_code == 200
        assert await states(gateway) == {"a": "stored", "b": "ready"}


async def test_a_request_without_a_model_goes_to_the_default_that_was_chosen(gateway: Gateway) -> None:
    assert (await done(gateway, "b/default"))["is_default"]
    assert (await gateway.chat()).json()["model"] == "b"
    assert Catalog(gateway.state.config, ModelStore(gateway.state.config.models_dir)).default_name == "b"
    assert (await get(gateway, "/admin/status"))["default"] == "b"


async def test_a_default_that_was_taken_out_of_the_lock_stops_nothing_but_what_needs_it(gateway: Gateway) -> None:
    await done(gateway, "b/default")
    lock = Path(gateway.state.config.models_lock)
    text = lock.read_text()
    before, after = text[: text.index('name = "b"')].rpartition("[[models]]")[0], text[text.index('name = "c"') :]
    lock.write_text(f"{before}[[models]]\n{after}")
    status, code, message = error(await gateway.chat())
    assert (status, code) == (404, "model_not_found")
    assert "appliance models default NAME" in message
    assert (await gateway.chat(model="a")).status_code == 200
    assert (await get(gateway, "/admin/status"))["default"] is None
    assert len((await get(gateway, "/admin/models"))["models"]) == 2
    ready = await gateway.http.get("/health/ready")
    assert (ready.status_code, ready.json()["error"]) == (503, message)
    assert (await done(gateway, "c/default"))["is_default"]
    assert (await gateway.chat()).json()["model"] == "c"


async def test_what_is_taken_out_of_the_lock_is_unloaded(gateway: Gateway) -> None:
    await done(gateway, "c/load")
    lock = Path(gateway.state.config.models_lock)
    text = lock.read_text()
    lock.write_text(text[: text.index('name = "c"')].rpartition("[[models]]")[0])
    assert error(await gateway.chat(model="c"))[:2] == (404, "model_not_found")
    await until(lambda: [host.spec.stored.name for host in gateway.supervisor.hosts.values()] == ["a"])


async def test_a_version_is_switched_to_once_it_is_loaded() -> None:
    async with run_gateway(models={"a": 0}, n_versions=2) as gateway:
        new, old = digest("a", 0)[:12], digest("a", 1)[:12]
        assert (await done(gateway, "a/use", {"version": old[:6]}))["version"] == old
        models = (await get(gateway, "/admin/status"))["models"]
        assert {model["version"]: model["state"] for model in models} == {new: "stored", old: "ready"}
        assert (await gateway.http.get("/health/ready")).json()["models"] == {"a": "ready"}
        assert (await done(gateway, "a/use", {"version": "previous"}))["version"] == new
        assert (await gateway.http.get("/health/ready")).json()["models"] == {"a": "ready"}


async def test_the_version_to_go_back_to_is_told() -> None:
    async with run_gateway(models={"a": 0, "b": 0}, n_versions=2) as gateway:
        assert not any(m["is_previous"] for m in (await get(gateway, "/admin/models"))["models"])
        await done(gateway, "a/use", {"version": digest("a", 1)})
        models = (await get(gateway, "/admin/models"))["models"]
        assert [m["is_previous"] for m in models] == [True, False, False, False]
        assert [m["is_current"] for m in models] == [False, True, True, False]


async def test_a_loaded_model_whose_file_has_gone_is_still_shown_as_it_is(gateway: Gateway) -> None:
    record = gateway.state.config.models_dir / "a" / digest("a")[:12] / "record.json"
    record.unlink()
    gateway.state.catalog._read()
    (model,) = [m for m in (await get(gateway, "/admin/models"))["models"] if m["name"] == "a"]
    assert model["problem"]
    assert (model["state"], model["status"]["state"]) == ("ready", "ready")


async def test_a_version_that_can_not_be_loaded_is_not_switched_to_and_the_old_one_serves_on() -> None:
    bad = f"a@{digest('a', 1)[:12]}"
    async with run_gateway(models={"a": 0}, n_versions=2, orders={bad: {"fail": "no such tensor"}}) as gateway:
        status, code, message = error(await post(gateway, "a/use", {"version": digest("a", 1)}))
        assert (status, code) == (503, "engine_unavailable")
        assert "no such tensor" in message
        answer = await gateway.chat()
        assert answer.status_code == 200
        current = {m["version"]: m["is_current"] for m in (await get(gateway, "/admin/models"))["models"]}
        assert current == {digest("a")[:12]: True, digest("a", 1)[:12]: False}


async def test_a_version_that_there_is_not_is_refused(gateway: Gateway) -> None:
    for version in ("previous", "0000", "x" * 10_000):
        assert error(await post(gateway, "a/use", {"version": version}))[:2] == (404, "model_not_found")
    for body in ({"version": 3}, None, []):
        assert (await post(gateway, "a/use", body)).status_code == 400


async def test_half_of_a_surrogate_pair_is_refused_as_a_version(gateway: Gateway) -> None:
    headers = {**gateway.admin, "Content-Type": "application/json"}
    response = await gateway.http.post("/admin/models/a/use", content=rb'{"version": "\ud800"}', headers=headers)
    assert response.status_code == 400


async def test_two_models_that_do_not_fit_together_are_served_in_turns() -> None:
    async with run_gateway(**ONE_FITS) as gateway:
        answers = await asyncio.gather(*(gateway.chat(model=name) for name in "abab" * 3))
        assert [answer.status_code for answer in answers] == [200] * 12
        assert [answer.json()["model"] for answer in answers] == list("abab" * 3)


async def test_a_client_that_leaves_while_its_model_loads_is_waited_for_no_longer(tmp_path: Path) -> None:
    loaded = tmp_path / "loaded"
    orders = {"b": {"load_until": str(loaded)}}
    async with run_gateway(models={"a": 0, "b": 0}, orders=orders) as gateway:
        asked = asyncio.create_task(gateway.chat(model="b"))
        host = gateway.supervisor.host(gateway.state.catalog.resolve("b").spec)
        await until(lambda: host.n_waiting)
        asked.cancel()
        await until(lambda: not host.n_waiting)
        assert gateway.activity.running() == []
        loaded.touch()


async def test_a_request_can_be_cancelled_while_its_model_loads(tmp_path: Path) -> None:
    orders = {"b": {"load_until": str(tmp_path / "never")}}
    async with run_gateway(models={"a": 0, "b": 0}, orders=orders) as gateway:
        for stream in (False, True):
            asked = asyncio.create_task(gateway.chat(model="b", stream=stream))
            await until(gateway.activity.running)
            (entry,) = (await get(gateway, "/admin/requests"))["requests"]
            await gateway.http.delete(f"/admin/requests/{entry['id']}", headers=gateway.admin)
            assert error(await asked)[:2] == (409, "request_cancelled")
        await done(gateway, "b/unload")


async def test_requests_that_wait_for_a_model_that_is_unloaded_are_told_so(tmp_path: Path) -> None:
    orders = {"b": {"load_until": str(tmp_path / "never")}}
    async with run_gateway(models={"a": 0, "b": 0}, orders=orders) as gateway:
        loading, asked = asyncio.create_task(post(gateway, "b/load")), asyncio.create_task(gateway.chat(model="b"))
        host = gateway.supervisor.host(gateway.state.catalog.resolve("b").spec)
        await until(lambda: host.n_waiting == 2 and host.client)
        assert (await done(gateway, "b/unload"))["state"] == "stored"
        for response in (await loading, await asked):
            assert error(response) == (503, "engine_unavailable", "b was unloaded by an operator")


ODD = ["..", ".", "%2e%2e", "a%2Fb", "%2F", "%00", "%FF", "a%20b", "%C3%A4", "%ED%A0%80", "@", "@a", "a@zz", "~"]
ODD += ["x" * 10_000, "a%0Aevent=x", "%25s", "{model}", "%7B0%7D"]


@pytest.mark.parametrize("action", ["load", "unload", "pin", "unpin", "default", "use"])
async def test_odd_names_are_refused_cleanly(gateway: Gateway, action: str) -> None:
    for name in ODD:
        status, body = await posted_as_it_is(gateway, f"/admin/models/{name}/{action}")
        assert status in (400, 404), (name, body)
        assert json.loads(body)["error"]["message"]
        assert len(body) < 21_000


async def posted_as_it_is(gateway: Gateway, path: str) -> tuple[int, str]:
    """Clients tidy paths up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {gateway.admin['Authorization']}\r\n"
    rest = "Content-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    writer.write((head + rest).encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]


async def test_an_empty_name_is_not_the_default_model_s(gateway: Gateway) -> None:
    for action in ("load", "unload", "pin", "unpin", "default", "use"):
        assert error(await post(gateway, f"/{action}", {}))[:2] == (400, "invalid_value")


async def test_nothing_is_told_or_done_without_the_admin_token(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sk-0123456789abcdef name=app\n")
    app = {"Authorization": "Bearer sk-0123456789abcdef"}
    asked = [("POST", f"/admin/models/a/{do}") for do in ("load", "unload", "pin", "unpin", "default", "use")]
    asked += [("GET", f"/admin/{what}") for what in ("models", "status", "history", "hardware", "logs", "events")]
    asked += [("GET", "/admin/logs?follow=true"), ("GET", "/admin/requests"), ("DELETE", "/admin/requests/x")]
    async with run_gateway(models={"a": 0}, keys=keys) as gateway:
        for method, path in asked:
            assert (await gateway.http.request(method, path)).status_code == 401, path
            assert (await gateway.http.request(method, path, headers=app)).status_code == 403, path
        assert (await gateway.http.get("/health/ready")).json()["models"] == {"a": "ready"}
