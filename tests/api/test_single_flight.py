"""Requests that ask for the same at the same time share one generation, and nothing that befalls another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance.cache.store import Found, ResponseCache
from tests.api.answers import (
    BYPASS,
    HIT,
    JOINED,
    MISS,
    content,
    counts,
    error,
    frames,
    is_stored,
    joined,
    n_sampled,
    state,
    text_pieces,
)
from tests.gateway import Gateway, engine_config, run_gateway
from tests.machine_room import until
from tests.response_cache import FILE, open_cache

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
ENDLESS: dict[str, Any] = {"ignore_eos": True, "max_tokens": None}
LONG: dict[str, Any] = {"max_tokens": 100}  # "a" is answered by the alphabet, to its end


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    """With room for one running request and very long answers."""
    config = engine_config(n_ctx=1 << 22, max_running=1)
    async with open_cache(tmp_path) as cache, run_gateway(config, cache=cache) as running:
        yield running


@contextlib.asynccontextmanager
async def streaming(gateway: Gateway, text: str = "a", **fields: Any) -> AsyncIterator[AsyncIterator[str]]:
    """The pieces of a stream; leaving the block closes its connection."""
    body = {"messages": [{"role": "user", "content": text}], "stream": True, "temperature": 0, **fields}
    async with gateway.http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        pieces = text_pieces(response.aiter_lines())
        yield pieces
        await pieces.aclose()  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def busy(gateway: Gateway) -> AsyncIterator[None]:
    """The only slot is held by a request that nobody can join: whatever comes meanwhile waits."""
    async with streaming(gateway, "busy", temperature=1, **ENDLESS) as pieces:
        await anext(pieces)
        yield


async def take(pieces: AsyncIterator[str], n_chars: int) -> str:
    text = ""
    while len(text) < n_chars:
        text += await anext(pieces)
    return text


def cancel(gateway: Gateway, request_id: str) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(gateway.http.delete(f"/admin/requests/{request_id}", headers=gateway.admin))


async def named(gateway: Gateway, request_id: str, text: str = "a", **fields: Any) -> httpx.Response:
    """A request whose X-Request-ID is this."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 3, "temperature": 0, **fields}
    return await gateway.http.post("/v1/chat/completions", json=body, headers={"X-Request-ID": request_id})


async def test_a_hundred_at_once_are_one_generation(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache, run_gateway(cache=cache) as gateway:
        whole = [gateway.chat("a", max_tokens=5) for _ in range(50)]
        streamed = [gateway.chat("a", max_tokens=5, stream=True) for _ in range(50)]
        answers = await asyncio.gather(*whole, *streamed)
        assert n_sampled(gateway) == 5
        assert [state(answer) for answer in answers].count(MISS) == 1
        assert {state(answer) for answer in answers} <= {MISS, JOINED, HIT}
        assert {content(answer) for answer in answers[:50]} == {"bcdef"}
        for answer in answers[50:]:
            pieces = [frame["choices"][0]["delta"].get("content", "") for frame in frames(answer.text)]
            assert pieces == ["", "b", "c", "d", "e", "f", ""]
        assert not gateway.activity.running()


async def test_joiners_are_told_so_and_what_they_saved_is_counted(gateway: Gateway) -> None:
    async with busy(gateway):
        first = asyncio.create_task(gateway.chat("a"))
        await until(lambda: counts(gateway).n_misses == 1)
        others = [asyncio.create_task(gateway.chat("a")) for _ in range(2)]
        await joined(gateway, 2)
        assert counts(gateway).saved_tokens == 0
    assert [state(await task) for task in (first, *others)] == [MISS, JOINED, JOINED]
    assert counts(gateway).saved_tokens == 2 * 4
    assert "Age" not in (await others[0]).headers
    assert state(await gateway.chat("a")) == HIT


async def test_a_joiner_hears_all_from_the_beginning_and_then_as_it_comes(gateway: Gateway) -> None:
    async with streaming(gateway, **ENDLESS) as leader:
        begun = await take(leader, 40)
        async with streaming(gateway, **ENDLESS) as joiner:
            assert (await take(joiner, 40))[:40] == begun[:40]
            assert counts(gateway).n_joins == 1
            # Nothing is complete: what follows is heard while it is computed.
            heard_by_leader, heard_by_joiner = await take(leader, 500), await take(joiner, 500)
            assert heard_by_leader
            assert heard_by_joiner


async def test_the_leader_hangs_up_and_the_generation_lives_on_while_anyone_listens(gateway: Gateway) -> None:
    async with contextlib.AsyncExitStack() as others:
        async with streaming(gateway, **ENDLESS) as leader:
            await take(leader, 10)
            second, third = [await others.enter_async_context(streaming(gateway, **ENDLESS)) for _ in range(2)]
            await take(second, 10)
            await take(third, 10)
        await until(lambda: len(gateway.activity.running()) == 2)
        await take(second, 500)
        waiting = asyncio.create_task(gateway.chat("a"))  # the slot is not free
        await take(third, 500)
        assert not waiting.done()
    # Nobody is left: the engine is free.
    assert content(await waiting) == "bcd"
    assert gateway.host.n_users == 0
    assert not await is_stored(gateway, "a", **ENDLESS)


async def test_the_leader_hangs_up_and_a_joiner_s_whole_answer_is_kept(gateway: Gateway) -> None:
    async with busy(gateway):
        leader = asyncio.create_task(gateway.chat("a", **LONG))
        await until(lambda: counts(gateway).n_misses == 1)
        joiner = asyncio.create_task(gateway.chat("a", **LONG))
        await joined(gateway, 1)
        leader.cancel()
        await asyncio.wait([leader])
        await until(lambda: len(gateway.activity.running()) == 2)
    assert content(await joiner) == ALPHABET[1:]
    assert await is_stored(gateway, "a", **LONG)


async def test_who_comes_after_the_last_has_left_joins_nobody(gateway: Gateway) -> None:
    async with busy(gateway):
        left = asyncio.create_task(gateway.chat("a"))
        await until(lambda: counts(gateway).n_misses == 1)
        left.cancel()
        await asyncio.wait([left])
        await until(lambda: len(gateway.activity.running()) == 1)
        new = asyncio.create_task(gateway.chat("a"))
        await until(lambda: counts(gateway).n_misses == 2)
    assert state(await new) == MISS
    assert content(await new) == "bcd"


async def test_an_error_reaches_all(tmp_path: Path) -> None:
    go = tmp_path / "go"
    orders = {"fake": {"load_until": str(go)}}
    async with open_cache(tmp_path) as cache, run_gateway(cache=cache, is_loaded=False, orders=orders) as gateway:
        for text, code in (("x" * 300, "context_length_exceeded"), ("!", "engine_error")):
            before = counts(gateway)
            tasks = [asyncio.create_task(gateway.chat(text, stream=stream)) for stream in (False, False, True)]
            if not go.exists():  # the second time it is loaded, and joining is not certain
                await joined(gateway, before.n_joins + 2)
                go.touch()
            assert {error(await task)[1] for task in tasks} == {code}
            assert not await is_stored(gateway, text)
        assert not gateway.activity.running()


async def test_an_engine_that_dies_before_text_has_left_begins_again_for_all(tmp_path: Path) -> None:
    orders: dict[str, dict[str, Any]] = {"fake": {"crash_after": 10}}
    go = tmp_path / "go"
    async with open_cache(tmp_path) as cache, run_gateway(cache=cache, orders=orders) as gateway:
        orders["fake"] = {"load_until": str(go)}
        leader = asyncio.create_task(gateway.chat("a", **LONG))
        await until(lambda: gateway.host.state == "loading" and gateway.host.load_progress is not None)
        # Some of the first engine's text is there, and must not be heard by who comes now.
        late = asyncio.create_task(gateway.chat("a", **LONG, stream=True))
        later = asyncio.create_task(gateway.chat("a", **LONG))
        await joined(gateway, 2)
        go.touch()
        assert content(await leader) == content(await later) == ALPHABET[1:]
        text = "".join(frame["choices"][0]["delta"].get("content", "") for frame in frames((await late).text))
        assert text == ALPHABET[1:]
        assert (state(await leader), state(await late), state(await later)) == (MISS, JOINED, JOINED)
        again = await gateway.chat("a", **LONG)
        assert (state(again), content(again)) == (HIT, ALPHABET[1:])


async def test_an_engine_that_dies_after_text_has_left_fails_all(gateway: Gateway) -> None:
    async with streaming(gateway, **ENDLESS) as leader:
        await take(leader, 10)
        joiner = asyncio.create_task(gateway.chat("a", **ENDLESS))
        await joined(gateway, 1)
        assert gateway.host.client is not None
        os.kill(gateway.host.client.pid, signal.SIGKILL)
        with pytest.raises(AssertionError, match="engine_crashed"):
            await take(leader, 1 << 30)
        assert error(await joiner) == (500, "engine_crashed")
    assert not await is_stored(gateway, "a", **ENDLESS)
    assert content(await gateway.chat("a")) == "bcd"


@pytest.mark.parametrize("cancelled", ["leader", "joiner"])
async def test_cancelling_one_leaves_the_others(gateway: Gateway, cancelled: str) -> None:
    async with busy(gateway):
        tasks = {}
        for number, name in enumerate(("leader", "joiner", "other")):
            tasks[name] = asyncio.create_task(named(gateway, name))
            await until(lambda wanted=number + 1: counts(gateway).n_misses + counts(gateway).n_joins == wanted)
        assert (await cancel(gateway, cancelled)).status_code == 200
        assert error(await tasks.pop(cancelled)) == (409, "request_cancelled")
    assert [content(await task) for task in tasks.values()] == ["bcd", "bcd"]
    assert n_sampled(gateway) > 3
    assert await is_stored(gateway, "a")


async def test_cancelling_all_ends_the_generation(gateway: Gateway) -> None:
    first = asyncio.create_task(named(gateway, "first", **ENDLESS))
    await until(lambda: counts(gateway).n_misses == 1)
    second = asyncio.create_task(named(gateway, "second", **ENDLESS))
    await joined(gateway, 1)
    for name, task in (("first", first), ("second", second)):
        assert (await cancel(gateway, name)).status_code == 200
        assert error(await task) == (409, "request_cancelled")
    assert content(await gateway.chat("a")) == "bcd"
    assert gateway.host.n_users == 0


async def test_requests_that_wait_for_a_model_join_and_are_cancelled_one_by_one(tmp_path: Path) -> None:
    go = tmp_path / "go"
    orders = {"fake": {"load_until": str(go)}}
    async with open_cache(tmp_path) as cache, run_gateway(cache=cache, is_loaded=False, orders=orders) as gateway:
        leader = asyncio.create_task(named(gateway, "leader"))
        await until(lambda: counts(gateway).n_misses == 1)
        joiner = asyncio.create_task(named(gateway, "joiner"))
        await joined(gateway, 1)
        assert (await cancel(gateway, "leader")).status_code == 200
        assert error(await leader) == (409, "request_cancelled")
        go.touch()
        assert content(await joiner) == "bcd"


class SlowCache(ResponseCache):
    """What it has found comes late: when it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / FILE, max_bytes=1 << 20)
        self.n_looking = 0
        self.may_answer = asyncio.Event()

    async def get(self, key: bytes, *, max_age_s: float | None = None) -> Found | None:
        found = await super().get(key, max_age_s=max_age_s)
        self.n_looking += 1
        await self.may_answer.wait()
        self.n_looking -= 1
        return found


@pytest.fixture
async def slow_cache(tmp_path: Path) -> AsyncIterator[SlowCache]:
    cache = SlowCache(tmp_path)
    cache.start()
    yield cache
    await cache.stop()


async def test_a_request_that_is_cancelled_while_it_is_looked_for_never_runs(slow_cache: SlowCache) -> None:
    async with run_gateway(engine_config(n_ctx=1 << 22, max_running=1), cache=slow_cache) as gateway:
        waiting = asyncio.create_task(named(gateway, "unwanted", **ENDLESS))
        await until(lambda: slow_cache.n_looking == 1)
        assert (await cancel(gateway, "unwanted")).status_code == 200
        slow_cache.may_answer.set()
        assert error(await waiting) == (409, "request_cancelled")
        assert content(await gateway.chat("a")) == "bcd"  # it holds no slot
        assert n_sampled(gateway) == 3


async def test_an_answer_that_was_computed_while_it_was_looked_for_is_found(slow_cache: SlowCache) -> None:
    async with run_gateway(cache=slow_cache) as gateway:
        looking = asyncio.create_task(gateway.chat("a"))
        await until(lambda: slow_cache.n_looking == 1)
        refreshed = await gateway.http.post(
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "a"}], "max_tokens": 3, "temperature": 0},
            headers={"Cache-Control": "no-cache"},
        )
        assert state(refreshed) == BYPASS
        slow_cache.may_answer.set()
        assert state(await looking) == HIT
        assert n_sampled(gateway) == 3


async def test_one_that_took_off_while_it_was_looked_for_is_joined(slow_cache: SlowCache) -> None:
    config = engine_config(n_ctx=1 << 22, max_running=1)
    async with run_gateway(config, cache=slow_cache) as gateway, busy(gateway):
        tasks = [asyncio.create_task(named(gateway, str(number), **ENDLESS)) for number in range(2)]
        await until(lambda: slow_cache.n_looking == 2)
        slow_cache.may_answer.set()
        await joined(gateway, 1)
        assert counts(gateway).n_misses == 1
        for number, task in enumerate(tasks):
            await cancel(gateway, str(number))
            assert error(await task) == (409, "request_cancelled")


async def test_an_interactive_request_does_not_wait_with_those_that_wait_for_all(gateway: Gateway) -> None:
    async with busy(gateway):
        tasks = []
        for number, tier in enumerate(("flex", "flex", "default", "auto", "flex"), 1):
            tasks.append(asyncio.create_task(gateway.chat("a", service_tier=tier)))
            await until(lambda wanted=number: counts(gateway).n_misses + counts(gateway).n_joins == wanted)
    answers = [await task for task in tasks]
    assert [state(answer) for answer in answers] == [MISS, JOINED, MISS, JOINED, JOINED]
    assert {content(answer) for answer in answers} == {"bcd"}


async def test_who_wants_a_new_answer_is_joined_and_joins_nobody(gateway: Gateway) -> None:
    async with busy(gateway):
        tasks = []
        for number, directive in enumerate(("max-age=0", "no-cache", "max-age=0", "no-store"), 1):
            body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 3, "temperature": 0}
            headers = {"Cache-Control": directive}
            tasks.append(asyncio.create_task(gateway.http.post("/v1/chat/completions", json=body, headers=headers)))
            await until(lambda wanted=number + 1: len(gateway.activity.running()) == wanted)
            await until(lambda: all(generation.is_located.is_set() for generation in gateway.activity.running()))
        assert not await is_stored(gateway, "a")  # nor does who wants no new one at all
    assert [state(await task) for task in tasks] == [MISS, BYPASS, JOINED, BYPASS]


async def test_prompts_of_one_request_and_of_another_join_each_other(gateway: Gateway) -> None:
    async def complete(*prompts: str) -> httpx.Response:
        body = {"prompt": list(prompts), "max_tokens": 3, "temperature": 0}
        return await gateway.http.post("/v1/completions", json=body)

    async with busy(gateway):
        one = asyncio.create_task(complete("a", "k"))
        await until(lambda: counts(gateway).n_misses == 2)
        other = asyncio.create_task(complete("k", "a", "p"))
        await joined(gateway, 2)
        await until(lambda: counts(gateway).n_misses == 3)
    assert [choice["text"] for choice in (await one).json()["choices"]] == ["bcd", "lmn"]
    assert [choice["text"] for choice in (await other).json()["choices"]] == ["lmn", "bcd", "qrs"]
    assert state(await other) == MISS


@pytest.mark.parametrize("seed", range(3))
async def test_whoever_leaves_is_cancelled_or_stays_nothing_is_left_behind(tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)
    config = engine_config(n_ctx=1 << 22, max_running=2)
    async with open_cache(tmp_path) as cache, run_gateway(config, cache=cache) as gateway:

        async def one(number: int) -> None:
            name, text = f"r{number}", choose.choice("akp")
            if choose.random() < 0.4:
                assert content(await named(gateway, name, text)).startswith(chr(ord(text) + 1))
                return
            endless = asyncio.create_task(named(gateway, name, text, **ENDLESS))
            for _ in range(choose.randint(0, 30)):
                await asyncio.sleep(0)
            if choose.random() < 0.5:
                endless.cancel()
                await asyncio.wait([endless])
                return
            # It may not have arrived yet.
            while not endless.done():
                await cancel(gateway, name)
            assert error(await endless) == (409, "request_cancelled")

        assert (await gateway.chat("z")).status_code == 200
        n_tasks = len(asyncio.all_tasks())
        await asyncio.gather(*(one(number) for number in range(40)))
        await until(lambda: not gateway.activity.running() and gateway.host.n_users == 0)
        assert not gateway.state.inference._answers._flights
        await until(lambda: len(asyncio.all_tasks()) <= n_tasks)
