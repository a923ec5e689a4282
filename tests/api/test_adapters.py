"""Adapters over HTTP. The fake model answers in capitals with one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from appliance.settings import ModelSettings
from tests.api.answers import HIT, MISS, content, error, frames, state
from tests.gateway import MODEL, Gateway, run_gateway
from tests.response_cache import open_cache

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOUD, TIDY = f"{MODEL}:loud", f"{MODEL}:tidy"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    own = {MODEL: ModelSettings(aliases=["alias"], adapter_scales={"tidy": 0.5})}
    async with (
        open_cache(tmp_path_factory.mktemp("cache")) as cache,
        run_gateway(adapters=("loud", "tidy"), own=own, cache=cache) as running,
    ):
        yield running


@pytest.mark.parametrize("model", [LOUD, "alias:loud"])
async def test_an_adapter_is_asked_for_by_its_model_s_name_and_its_own(gateway: Gateway, model: str) -> None:
    response = await gateway.chat("1 a", model=model)
    assert content(response) == "BCD"
    assert response.json()["model"] == LOUD
    base = await gateway.chat("1 a", model=MODEL)
    assert (content(base), base.json()["model"]) == ("bcd", MODEL)
    assert base.json()["system_fingerprint"] != response.json()["system_fingerprint"]


async def test_chunks_of_a_stream_name_the_adapter(gateway: Gateway) -> None:
    response = await gateway.chat("2 a", model=LOUD, stream=True)
    assert {chunk["model"] for chunk in frames(response.text)} == {LOUD}


async def test_answers_with_and_without_an_adapter_are_kept_apart(gateway: Gateway) -> None:
    asked = [(MODEL, MISS), (LOUD, MISS), (TIDY, MISS), (MODEL, HIT), (LOUD, HIT), (TIDY, HIT)]
    for model, expected in asked:
        response = await gateway.chat("3 a", model=model)
        assert state(response) == expected, model
        assert content(response) == ("bcd" if model == MODEL else "BCD")


async def test_answers_are_purged_by_the_adapter_s_name(gateway: Gateway) -> None:
    for model in (MODEL, LOUD):
        await gateway.chat("6 a", model=model)
    response = await gateway.http.post("/admin/cache/purge", json={"model": LOUD}, headers=gateway.admin)
    assert response.json()["purged"] >= 1
    assert [state(await gateway.chat("6 a", model=model)) for model in (MODEL, LOUD)] == [HIT, MISS]


async def test_all_at_the_same_time_each_get_their_own(gateway: Gateway) -> None:
    models = [MODEL, LOUD, TIDY] * 4
    responses = await asyncio.gather(*(gateway.chat(f"4{n} a", model=model) for n, model in enumerate(models)))
    assert [content(response) for response in responses] == ["bcd", "BCD", "BCD"] * 4
    assert len(gateway.supervisor.hosts) == 1, "one engine process"


async def test_an_adapter_that_there_is_not_is_a_404_with_those_there_are(gateway: Gateway) -> None:
    response = await gateway.chat("a", model=f"{MODEL}:other")
    assert error(response) == (404, "model_not_found")
    assert f"there are: {LOUD}, {TIDY}" in response.json()["error"]["message"]


async def test_adapters_are_listed_with_the_models(gateway: Gateway) -> None:
    entries = (await gateway.http.get("/v1/models")).json()["data"]
    assert [(entry["id"], entry.get("parent")) for entry in entries] == [(MODEL, None), (LOUD, MODEL), (TIDY, MODEL)]
    assert (await gateway.http.get(f"/v1/models/{LOUD}")).json() == entries[1]


async def test_an_administrator_sees_which_can_be_served(gateway: Gateway) -> None:
    (version,) = await _versions(gateway)
    assert version["adapters"] == [
        {"name": LOUD, "scale": 1.0, "problem": None},
        {"name": TIDY, "scale": 0.5, "problem": None},
    ]


async def test_requests_are_counted_and_shown_under_the_adapter_s_name(gateway: Gateway) -> None:
    await gateway.chat("5 a", model=TIDY)
    metrics = (await gateway.http.get("/metrics")).text
    assert f'model_name="{TIDY}"' in metrics
    response = await gateway.http.get("/admin/requests", headers=gateway.admin)
    assert TIDY in response.text


async def test_a_load_or_unload_by_the_adapter_s_name_is_that_of_the_model(gateway: Gateway) -> None:
    response = await gateway.http.post(f"/admin/models/{LOUD}/load", headers=gateway.admin)
    assert (response.status_code, response.json()["name"]) == (200, MODEL)
    refused = await gateway.http.post(f"/admin/models/{LOUD}/default", headers=gateway.admin)
    assert (refused.status_code, "is an adapter of" in refused.text) == (400, True)


async def test_an_engine_that_was_loaded_before_an_adapter_says_how_it_gets_it() -> None:
    async with run_gateway(adapters=("loud",)) as gateway:
        (path,) = Path(gateway.state.config.models_dir).glob("*/*/adapters/loud-*.gguf")
        hidden = path.rename(path.with_name("elsewhere"))
        await gateway.http.post(f"/admin/models/{MODEL}/unload", headers=gateway.admin)
        gateway.state.config.models_lock.touch()
        assert content(await gateway.chat("a")) == "bcd"
        assert error(await gateway.chat("a", model=LOUD)) == (404, "model_not_found")
        (version,) = await _versions(gateway)
        assert "its file is not there; run `appliance models build" in version["adapters"][0]["problem"]
        hidden.rename(path)
        refused = await gateway.chat("a", model=LOUD)
        assert "appliance models unload" in refused.json()["error"]["message"]
        await gateway.http.post(f"/admin/models/{MODEL}/unload", headers=gateway.admin)
        assert content(await gateway.chat("a", model=LOUD)) == "BCD"


async def _versions(gateway: Gateway) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await gateway.http.get("/admin/models", headers=gateway.admin)).json()["models"]
    return found
