"""The response cache over HTTP: what is answered from it, what passes by, and what the headers say."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from appliance.settings import ModelSettings
from tests.api.answers import BYPASS, HIT, MISS, content, counts, error, is_stored, n_sampled, state
from tests.gateway import Gateway, run_gateway
from tests.response_cache import open_cache

pytestmark = pytest.mark.asyncio(loop_scope="module")

_numbers = itertools.count()


class Clock:
    """A wall clock that stands."""

    now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> AsyncIterator[Gateway]:
    """One for all tests, each of which asks what no other does."""
    async with open_cache(tmp_path_factory.mktemp("cache"), clock=clock) as cache, run_gateway(cache=cache) as running:
        yield running


@pytest.fixture
def text() -> str:
    """A prompt of which nothing is known yet; the answer is ``bcd``."""
    return f"{next(_numbers)} a"


async def ask(gateway: Gateway, text: str, *directives: str, **fields: Any) -> httpx.Response:
    """A chat request with each of the directives in a Cache-Control header of its own."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 3, "temperature": 0, **fields}
    headers = [("Cache-Control", directive) for directive in directives]
    return await gateway.http.post("/v1/chat/completions", json=body, headers=headers)


async def test_the_same_question_is_computed_once(gateway: Gateway, text: str) -> None:
    before = n_sampled(gateway)
    first, second = await ask(gateway, text), await ask(gateway, text)
    assert (state(first), state(second)) == (MISS, HIT)
    assert content(first) == content(second) == "bcd"
    assert n_sampled(gateway) - before == 3


async def test_a_hit_is_a_new_answer_of_which_nothing_was_computed(gateway: Gateway, text: str) -> None:
    first, second = (await ask(gateway, text)).json(), (await ask(gateway, text)).json()
    assert first["id"] != second["id"]
    assert second["created"] >= first["created"]
    assert second["usage"].pop("prompt_tokens_details") == {"cached_tokens": len(text)}
    assert second["timings"]["cached_tokens"] == len(text)
    assert second["timings"]["queue_s"] == 0
    del first["usage"]["prompt_tokens_details"]
    for name in ("object", "model", "system_fingerprint", "choices", "usage"):
        assert first[name] == second[name]


async def test_age_is_how_long_ago_the_answer_was_computed(gateway: Gateway, clock: Clock, text: str) -> None:
    assert "Age" not in (await ask(gateway, text)).headers
    for passed_s, told in ((0.0, "0"), (1.9, "1"), (3600.0, "3601")):
        clock.now_s += passed_s
        assert (await ask(gateway, text)).headers["Age"] == told


@pytest.mark.parametrize(
    ("fields", "states"),
    [
        ({"temperature": 0}, [MISS, HIT]),
        ({"temperature": 0.00001}, [MISS, HIT]),
        ({"temperature": 0, "seed": 1}, [MISS, HIT]),
        ({"temperature": None, "seed": 1}, [MISS, HIT]),
        ({"temperature": 1.5, "seed": -1}, [MISS, HIT]),
        ({"temperature": None}, [BYPASS, BYPASS]),
        ({"temperature": 1}, [BYPASS, BYPASS]),
        ({"temperature": 0.01}, [BYPASS, BYPASS]),
        ({"temperature": None, "top_k": 1}, [BYPASS, BYPASS]),
        ({"temperature": 0, "n": 2}, [MISS, HIT]),
        ({"temperature": 0, "logit_bias": {"1": 0}}, [MISS, HIT]),
        ({"temperature": 0, "service_tier": "flex"}, [MISS, HIT]),
    ],
)
async def test_what_is_kept(gateway: Gateway, text: str, fields: dict[str, Any], states: list[str]) -> None:
    assert [state(await ask(gateway, text, **fields)) for _ in states] == states


async def test_the_operator_s_temperature_for_the_model_counts(tmp_path: Path) -> None:
    own = {"fake": ModelSettings.model_validate({"sampling": {"temperature": 0}})}
    async with open_cache(tmp_path) as cache, run_gateway(cache=cache, own=own) as gateway:
        assert [state(await ask(gateway, "a", temperature=given)) for given in (None, None, 0)] == [MISS, HIT, HIT]
        assert state(await ask(gateway, "a", temperature=1)) == BYPASS


# With a stored answer that is 60 seconds old, and without one: what comes, and whether an answer is stored then.
DIRECTIVES: list[tuple[tuple[str, ...], str | int, str | int]] = [
    ((), HIT, MISS),
    (("",), HIT, MISS),
    (("max-age=60",), HIT, MISS),
    (("max-age=3600",), HIT, MISS),
    (("max-age=59",), MISS, MISS),
    (("max-age=0",), MISS, MISS),
    (("max-age=-1",), MISS, MISS),
    (("max-age=soon",), MISS, MISS),
    (("max-age",), MISS, MISS),
    (('max-age="60"',), HIT, MISS),
    (("max-age=59, max-age=3600",), MISS, MISS),
    (("max-age=" + "9" * 1000,), HIT, MISS),
    (("no-cache",), BYPASS, BYPASS),
    (("No-Cache",), BYPASS, BYPASS),
    (("no-cache, max-age=3600",), BYPASS, BYPASS),
    (("no-cache, no-store",), BYPASS, BYPASS),
    (("no-store",), BYPASS, BYPASS),
    (("no-store, max-age=3600",), BYPASS, BYPASS),
    (("max-age=3600", "no-store"), BYPASS, BYPASS),
    (("only-if-cached",), HIT, 504),
    (("only-if-cached, max-age=60",), HIT, 504),
    (("max-age=59 , only-if-cached",), 504, 504),
    (("only-if-cached, no-cache",), 504, 504),
    (("only-if-cached, no-store",), 504, 504),
    (("only-if-cached", "no-store"), 504, 504),
    (("max-stale=5, min-fresh=1, no-transform, private, nonsense, =, ,,",), HIT, MISS),
    (("no-cache-at-all, max-aged=0, xno-store",), HIT, MISS),
]


@pytest.mark.parametrize(("directives", "with_one", "without"), DIRECTIVES, ids=lambda value: str(value)[:40])
async def test_cache_control(
    gateway: Gateway, clock: Clock, text: str, directives: tuple[str, ...], with_one: str | int, without: str | int
) -> None:
    async def found(text: str) -> str | int:
        response = await ask(gateway, text, *directives)
        if response.status_code == 504:
            assert error(response) == (504, "not_cached")
            assert "X-Cache" not in response.headers
            return 504
        return state(response)

    assert state(await ask(gateway, text)) == MISS
    clock.now_s += 60
    assert await found(text) == with_one
    assert await found(f"{text}n") == without
    is_kept = without == MISS or (without == BYPASS and "no-store" not in ",".join(directives))
    assert await is_stored(gateway, f"{text}n") is is_kept


async def test_an_answer_that_was_refused_as_too_old_is_replaced(gateway: Gateway, clock: Clock, text: str) -> None:
    await ask(gateway, text)
    clock.now_s += 60
    for directive in ("no-cache", "max-age=1"):
        await ask(gateway, text, directive)
        assert (await ask(gateway, text)).headers["Age"] == "0"
        clock.now_s += 60
    await ask(gateway, text, "no-store")
    assert (await ask(gateway, text)).headers["Age"] == "60"


async def test_only_if_cached_of_what_is_never_kept_says_why(gateway: Gateway, text: str) -> None:
    response = await ask(gateway, text, "only-if-cached", temperature=1)
    assert error(response) == (504, "not_cached")
    assert "without temperature 0 or a seed" in response.json()["error"]["message"]


async def test_a_stream_is_refused_before_it_begins(gateway: Gateway, text: str) -> None:
    before = n_sampled(gateway)
    response = await ask(gateway, text, "only-if-cached", stream=True)
    assert error(response) == (504, "not_cached")
    assert n_sampled(gateway) == before


async def test_without_a_response_cache_everything_passes_by() -> None:
    async with run_gateway() as gateway:
        assert [state(await ask(gateway, "a")) for _ in range(2)] == [BYPASS, BYPASS]
        assert error(await ask(gateway, "a", "only-if-cached")) == (504, "not_cached")
        assert counts(gateway).bypasses == {"off": 2}


async def test_what_happened_is_counted(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache, run_gateway(cache=cache) as gateway:
        for directives, fields in (
            ((), {}), ((), {}), (("no-cache",), {}), (("no-store",), {}), (("no-store",), {"temperature": 1}),
            (("only-if-cached",), {"max_tokens": 2}),
        ):  # fmt: skip
            await ask(gateway, "a", *directives, **fields)
        found = counts(gateway)
    assert (found.n_hits, found.n_misses, found.n_joins) == (1, 1, 0)
    assert found.bypasses == {"no-cache": 1, "no-store": 1, "sampled": 1}
    assert found.saved_tokens == 1 + 3
    assert found.saved_s > 0


async def test_a_bias_is_refused_to_who_asks_for_it_and_to_nobody_else(gateway: Gateway, text: str) -> None:
    assert (await ask(gateway, text, logit_bias={"97": 1})).status_code == 400  # the fake knows none
    assert state(await ask(gateway, text, logit_bias={"97": 0})) == MISS
    assert state(await ask(gateway, text)) == HIT
