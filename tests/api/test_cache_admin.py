"""``/admin/cache`` over HTTP."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from appliance.cache.answer import Answer
from appliance.cache.store import ResponseCache
from appliance.engine.messages import Piece
from appliance.settings import ModelSettings
from tests.api.admin import error, get
from tests.api.cache_admin import KEYS, chat, post, warmed
from tests.fake_models import digest
from tests.gateway import Gateway, run_gateway
from tests.machine_room import until
from tests.response_cache import FILE, open_cache

NOW_S = 1e9
DAY_S = 86400.0


@dataclass
class Clock:
    now_s: float = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[ResponseCache]:
    async with open_cache(tmp_path) as opened:
        yield opened


@pytest.fixture
async def gateway(cache: ResponseCache) -> AsyncIterator[Gateway]:
    own = {"b": ModelSettings(aliases=["vendor/model"])}
    async with run_gateway(models={"a": 0, "b": 0}, n_versions=2, own=own, cache=cache) as running:
        yield running


@pytest.fixture
async def guarded(cache: ResponseCache, tmp_path: Path) -> AsyncIterator[Gateway]:
    """Wants API keys."""
    keys = tmp_path / "keys"
    keys.write_text("".join(f"{key} {options}\n" for key, options in KEYS.items()))
    async with run_gateway(cache=cache, keys=keys) as running:
        yield running


async def test_an_empty_cache_is_shown(gateway: Gateway, tmp_path: Path) -> None:
    found = await get(gateway, "/admin/cache")
    assert found["contents"] == []
    status = found["status"]
    assert status["path"] == str(tmp_path / FILE)
    assert (status["hits"], status["joins"], status["misses"], status["bypasses"]) == (0, 0, 0, {})
    assert 0 < status["used_bytes"] < status["limit_bytes"] == 64 << 20
    assert status["problem"] is None
    assert (await get(gateway, "/admin/status"))["response_cache"] == status


async def test_what_it_did_and_what_is_in_it_are_shown(gateway: Gateway) -> None:
    for model, n_times in (("a", 3), ("b", 1)):
        for _ in range(n_times):
            await gateway.chat(model=model)
    await gateway.chat(temperature=1)
    await gateway.http.post("/v1/chat/completions", json=chat(), headers={"Cache-Control": "no-store"})
    found = await get(gateway, "/admin/cache")
    status = found["status"]
    assert (status["hits"], status["joins"], status["misses"]) == (2, 0, 2)
    assert status["bypasses"] == {"sampled": 1, "no-store": 1}
    assert status["saved_tokens"] == 2 * 4
    assert status["saved_s"] > 0
    first, second = found["contents"]
    assert (first["model"], first["version"], first["key"]) == ("a", digest("a")[:12], "-")
    assert (first["answers"], first["tokens"]) == (1, 4)
    assert (second["model"], second["version"]) == ("b", digest("b")[:12])


async def test_why_nothing_is_kept_is_shown(tmp_path: Path) -> None:
    foreign = sqlite3.connect(tmp_path / FILE)
    foreign.execute("CREATE TABLE bills (sum)")
    foreign.close()
    async with open_cache(tmp_path) as cache, run_gateway(cache=cache) as gateway:
        problem = f"{tmp_path / FILE} is another program's database: name another file"
        await until(lambda: cache.problem)
        assert (await get(gateway, "/admin/status"))["response_cache"]["problem"] == problem
        expected = (503, "response_cache_failed", f"the response cache can't be worked with at the moment: {problem}")
        contents = await gateway.http.get("/admin/cache", headers=gateway.admin)
        assert error(contents) == expected
        assert error(await post(gateway, "purge", {"all": True})) == expected
        assert error(await post(gateway, "vacuum")) == expected
        refusal = ("failed", f"no answer can be kept at the moment: {problem}")
        assert await warmed(gateway, chat("a"), chat("b")) == [refusal]
        assert not gateway.activity.recent  # nothing was computed in vain


async def test_a_cache_that_is_off_says_how_to_have_it_on() -> None:
    async with run_gateway() as gateway:
        assert (await get(gateway, "/admin/status"))["response_cache"] is None
        for response in (
            await gateway.http.get("/admin/cache", headers=gateway.admin),
            await post(gateway, "purge", {"all": True}),
            await post(gateway, "vacuum"),
            await post(gateway, "warm", {"requests": [chat()]}),
        ):
            message = "the response cache is off; set response_cache to true, and start the server again"
            assert error(response) == (409, "response_cache_off", message)


ANSWERS = [
    # model, version, owner, age in days
    ("a", digest("a")[:12], "app", 1),
    ("a", digest("a")[:12], "other", 3),
    ("a", digest("a", 1)[:12], "app", 5),
    ("b", digest("b")[:12], "-", 7),
    ("gone", "0123456789ab", "app", 9),
    ("gone", "01ffffffffff", "app", 11),
]


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[Gateway]:
    """Whose response cache holds :data:`ANSWERS`; ``gone`` has left models.lock."""
    clock = Clock()
    own = {"b": ModelSettings(aliases=["vendor/model"])}
    async with (
        open_cache(tmp_path, clock=clock) as cache,
        run_gateway(models={"a": 0, "b": 0}, n_versions=2, own=own, cache=cache) as gateway,
    ):
        for number, (model, version, owner, age_d) in enumerate(ANSWERS):
            clock.now_s = NOW_S - age_d * DAY_S
            cache.put(bytes([number]), Answer(1, 1, 1.0, ()), model=model, version=version, owner=owner)
        clock.now_s = NOW_S
        yield gateway


async def left(gateway: Gateway) -> set[int]:
    """Which of :data:`ANSWERS` are there."""
    assert gateway.state.cache is not None
    return {number for number in range(len(ANSWERS)) if await gateway.state.cache.get(bytes([number]))}


@pytest.mark.parametrize(
    ("wanted", "purged"),
    [
        ({"all": True}, {0, 1, 2, 3, 4, 5}),
        ({"model": "a"}, {0, 1, 2}),
        ({"model": f"a@{digest('a')[:12]}"}, {0, 1}),
        ({"model": f"a@{digest('a', 1)}"}, {2}),
        ({"model": f"a@{digest('a', 1)[:5]}"}, {2}),
        ({"model": "a@0000"}, set()),
        ({"model": "b"}, {3}),
        ({"model": "vendor/model"}, {3}),
        ({"model": f"vendor/model@{digest('b')[:12]}"}, {3}),
        ({"model": "gone"}, {4, 5}),
        ({"model": "gone@0123456789ab"}, {4}),
        ({"model": "gone@0123"}, {4}),
        ({"model": "gone@01ffffffffff" + "f" * 52}, {5}),
        ({"model": "A"}, set()),
        ({"model": "nosuch"}, set()),
        ({"key": "app"}, {0, 2, 4, 5}),
        ({"key": "-"}, {3}),
        ({"key": "nosuch"}, set()),
        ({"older_than_s": 4 * DAY_S}, {2, 3, 4, 5}),
        ({"older_than_s": 0}, {0, 1, 2, 3, 4, 5}),
        ({"older_than_s": 1e300}, set()),
        ({"model": "a", "key": "app"}, {0, 2}),
        ({"model": "a", "older_than_s": 2 * DAY_S}, {1, 2}),
        ({"key": "app", "older_than_s": 10 * DAY_S}, {5}),
        ({"model": "gone", "key": "app", "older_than_s": 10 * DAY_S}, {5}),
        ({"model": "gone", "key": "other"}, set()),
        ({"model": "a", "key": None, "older_than_s": None, "all": False}, {0, 1, 2}),
    ],
)
async def test_answers_are_purged_that_meet_all_that_is_given(
    full: Gateway, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any], purged: set[int]
) -> None:
    monkeypatch.setattr("appliance.service.cache_status.time.time", lambda: NOW_S)
    response = await post(full, "purge", wanted)
    assert (response.status_code, response.json()) == (200, {"purged": len(purged)})
    assert await left(full) == set(range(len(ANSWERS))) - purged


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("{}", "say which answers, by model, key or older_than_s; or say all"),
        ('{"all": false}', "say which answers, by model, key or older_than_s; or say all"),
        ('{"all": true, "key": "app"}', "say either which answers, or all"),
        ('{"all": true, "older_than_s": 0}', "say either which answers, or all"),
        ('{"model": ""}', "model: is empty"),
        ('{"key": ""}', "key: is empty"),
        ('{"model": "a@"}', "'a@' is no model: want NAME or NAME@VERSION"),
        ('{"model": "@0123"}', "'@0123' is no model: want NAME or NAME@VERSION"),
        ('{"model": "gone@01"}', "gone@01 means several: 0123456789ab, 01ffffffffff"),
        ('{"model": 1}', "model: want a valid string"),
        ('{"older_than_s": -1}', "older_than_s: want greater than or equal to 0"),
        ('{"older_than_s": NaN}', "older_than_s: want a finite number"),
        ('{"older_than_s": 1e400}', "older_than_s: want a finite number"),
        ('{"older_than_s": "7d"}', "older_than_s: want a valid number"),
        ('{"all": "yes"}', "all: want a valid boolean"),
        ('{"older": 1}', "older: there is no such field"),
        ("[]", "the body must be a JSON object, sent with Content-Type: application/json"),
    ],
)
async def test_a_purge_that_is_not_clear_removes_nothing(full: Gateway, wanted: str, message: str) -> None:
    headers = {**full.admin, "Content-Type": "application/json"}
    response = await full.http.post("/admin/cache/purge", content=wanted, headers=headers)
    assert (response.status_code, response.json()["error"]["message"]) == (400, message)
    assert len(await left(full)) == len(ANSWERS)


async def test_a_purged_answer_is_computed_anew(gateway: Gateway) -> None:
    await gateway.chat()
    assert (await gateway.chat()).headers["X-Cache"] == "hit"
    assert (await post(gateway, "purge", {"model": "a"})).json() == {"purged": 1}
    assert (await gateway.chat()).headers["X-Cache"] == "miss"


async def test_a_vacuum_gives_the_room_of_purged_answers_back(gateway: Gateway, tmp_path: Path) -> None:
    assert gateway.state.cache is not None
    large = Answer(1, 1, 1.0, (Piece("", 0, random.Random(1).randbytes(1 << 18).hex()),))
    gateway.state.cache.put(b"large", large, model="a", version="0", owner="-")
    await post(gateway, "purge", {"all": True})
    found = (await post(gateway, "vacuum")).json()
    assert found["after_bytes"] < found["before_bytes"]
    assert (tmp_path / FILE).stat().st_size == found["after_bytes"]
    await gateway.chat()
    assert (await gateway.chat()).headers["X-Cache"] == "hit"


async def test_api_keys_may_not_administer_it(guarded: Gateway) -> None:
    routes = [("GET", ""), ("POST", "/purge"), ("POST", "/vacuum"), ("POST", "/warm")]
    for method, path in routes:
        for token, status in ((None, 401), ("sk-wrong-0123456789", 403), (next(iter(KEYS)), 403)):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            response = await guarded.http.request(method, f"/admin/cache{path}", json={"all": True}, headers=headers)
            assert response.status_code == status, (method, path)


async def test_its_routes_are_documented(gateway: Gateway) -> None:
    paths = (await gateway.http.get("/openapi.json")).json()["paths"]
    assert set(paths["/admin/cache"]) == {"get"}
    for action in ("purge", "vacuum", "warm"):
        assert set(paths[f"/admin/cache/{action}"]) == {"post"}
    assert "openapi.json" in (await gateway.http.get("/docs")).text
