"""Models on a machine that is too small for all of them, with real engine processes that hold fake models."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest

from appliance.errors import ApplianceError, DoesNotFit, EngineCrashed, EngineFailed, EngineUnavailable, GPUMissing
from appliance.hardware.fit import Wanted
from appliance.hardware.memory_use import RAM
from appliance.supervisor.events import ModelEvent
from appliance.supervisor.supervisor import Rules
from tests.fake_models import EMBEDDING_HEADER
from tests.machine_room import MIB, machine_room, until

# What an engine process takes beside its model, generously.
OVERHEAD = 200 * MIB
ONE = {RAM: 1000 * MIB + OVERHEAD}
BIG = 800 * MIB


async def test_a_request_loads_its_model_and_an_idle_one_makes_way() -> None:
    async with machine_room(limits=ONE) as room:
        a, b = room.spec("a", n_bytes=BIG), room.spec("b", n_bytes=BIG)
        assert await room.ask(a) == "bcd"
        assert await room.ask(b, "c") == "def"
        assert (room.host(a).state, room.host(b).state) == ("stored", "ready")
        assert room.n_started == {"a": 1, "b": 1}


async def test_models_that_fit_together_stay_together() -> None:
    async with machine_room() as room:
        specs = [room.spec(name) for name in "abc"]
        await asyncio.gather(*(room.ask(spec) for spec in specs))
        assert [room.host(spec).state for spec in specs] == ["ready"] * 3


async def test_a_hundred_requests_for_two_models_in_turns_take_few_switches() -> None:
    rules = Rules(max_wait_s=0.5)
    async with machine_room(limits=ONE, rules=rules) as room:
        specs = [room.spec(name, n_bytes=BIG) for name in "ab"]
        waits: list[float] = []
        clock = asyncio.get_running_loop().time

        async def ask(number: int) -> None:
            await asyncio.sleep(0.02 * number)  # they come one after another
            began = clock()
            async with room.supervisor.engine(specs[number % 2]):
                waits.append(clock() - began)
            await room.ask(specs[number % 2])

        answers = [asyncio.create_task(ask(number)) for number in range(100)]
        await asyncio.gather(*answers)
        assert len(waits) == 100
        assert sum(room.n_started.values()) <= 12


async def test_running_requests_finish_before_their_model_makes_way() -> None:
    async with machine_room(limits=ONE, rules=Rules(max_wait_s=0.0), orders={"a": {"step_s": 0.01}}) as room:
        a, b = room.spec("a", n_bytes=BIG), room.spec("b", n_bytes=BIG)
        long = asyncio.create_task(room.ask(a, max_tokens=60))
        await until(lambda: room.host(a).n_users)
        short = asyncio.create_task(room.ask(b))
        assert len(await long) == 60
        assert await short == "bcd"
        assert room.n_started == {"a": 1, "b": 1}


async def test_who_waits_together_is_served_together() -> None:
    """Those who waited for a model get it even if others wait too long already for the one before it."""
    async with machine_room(limits=ONE, rules=Rules(max_wait_s=0.0)) as room:
        a, b = room.spec("a", n_bytes=BIG), room.spec("b", n_bytes=BIG)
        await room.ask(a)
        asked = [asyncio.create_task(room.ask(spec)) for spec in (a, b) * 20]
        assert await asyncio.gather(*asked) == ["bcd"] * 40
        assert sum(room.n_started.values()) <= 4


async def test_a_drain_that_takes_too_long_is_cut_off_and_its_request_is_told() -> None:
    async with machine_room(limits=ONE, rules=Rules(max_wait_s=0.0, drain_s=0.05)) as room:
        a, b = room.spec("a", n_bytes=BIG), room.spec("b", n_bytes=BIG)
        endless = asyncio.create_task(room.ask(a, max_tokens=1_000_000))
        await until(lambda: room.host(a).n_users)
        assert await room.ask(b) == "bcd"
        with pytest.raises(EngineFailed, match="the engine is stopping"):
            await endless


async def test_a_pinned_model_stays_and_what_does_not_fit_beside_it_is_refused_with_the_numbers() -> None:
    async with machine_room(limits=ONE) as room:
        a, b = room.spec("a", n_bytes=BIG, is_pinned=True), room.spec("b", n_bytes=BIG)
        await room.ask(a)
        with pytest.raises(DoesNotFit, match="MiB"):
            await room.ask(b)
        assert await room.ask(a) == "bcd"


async def test_an_operator_s_values_are_kept_and_refused_if_they_do_not_fit() -> None:
    async with machine_room(limits=ONE) as room:
        huge = room.spec("a", n_bytes=BIG, wanted=Wanted(n_ctx=1 << 24))
        with pytest.raises(DoesNotFit, match="16777216"):
            await room.ask(huge)
        assert room.n_started == {}


async def test_after_an_out_of_memory_automatic_values_step_down() -> None:
    limits = {RAM: 1 << 40, "GPU0": 1 << 40}
    orders = {"a": {"oom_above_layers": 9, "has_gpu": True, "n_layers": 11}}
    async with machine_room(limits=limits, orders=orders) as room:
        assert await room.ask(spec := room.spec("a")) == "bcd"
        fit = room.host(spec).fit
        assert fit is not None
        assert fit.run.n_gpu_layers == 9
        assert room.n_started["a"] == 3


async def test_after_an_out_of_memory_an_operator_s_values_stay_and_the_load_fails() -> None:
    limits = {RAM: 1 << 40, "GPU0": 1 << 40}
    orders = {"a": {"oom_above_layers": 9, "has_gpu": True, "n_layers": 11}}
    async with machine_room(limits=limits, orders=orders) as room:
        spec = room.spec("a", wanted=Wanted(n_ctx=256, n_gpu_layers=11))
        with pytest.raises(EngineUnavailable, match="no memory for 11 layers"):
            await room.ask(spec)
        assert room.n_started["a"] == 1


async def test_stepping_down_ends_after_three_times() -> None:
    limits = {RAM: 1 << 40, "GPU0": 1 << 40}
    async with machine_room(limits=limits, orders={"a": {"oom_above_layers": -1, "n_layers": 11}}) as room:
        with pytest.raises(EngineUnavailable, match="no memory"):
            await room.ask(room.spec("a"))
        assert room.n_started["a"] == 4


async def test_a_model_that_can_not_be_loaded_is_quarantined_and_others_go_on() -> None:
    async with machine_room(orders={"bad": {"fail": "the file is damaged"}}) as room:
        bad, good = room.spec("bad"), room.spec("good")
        with pytest.raises(EngineUnavailable, match="the file is damaged") as refused:
            await room.ask(bad)
        assert refused.value.retry_after_s is not None
        assert await room.ask(good) == "bcd"
        with pytest.raises(EngineUnavailable, match="the file is damaged"):
            await room.ask(bad)
        assert room.n_started["bad"] == 1
        assert room.host(bad).state == "failed"


async def test_an_operator_may_try_a_quarantined_model_again_at_once(tmp_path: Path) -> None:
    healed = tmp_path / "healed"
    orders = {"a": {"fail": "no luck", "healed_by": str(healed)}}
    async with machine_room(orders=orders) as room:
        spec = room.spec("a")
        with pytest.raises(EngineUnavailable):
            await room.supervisor.load(spec)
        healed.touch()
        await room.supervisor.load(spec)
        assert await room.ask(spec) == "bcd"


async def test_an_engine_that_crashes_again_and_again_is_started_later_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("appliance.supervisor.host.BACKOFF_S", (0.0, 0.02, 3600.0))
    async with machine_room(orders={"a": {"crash_after": 0}}) as room:
        spec = room.spec("a")
        while room.n_started.get("a", 0) < 3 or room.host(spec).state != "failed":
            with contextlib.suppress(ApplianceError):
                await room.ask(spec)
        with pytest.raises(EngineUnavailable, match="GGML_ASSERT") as refused:
            await room.ask(spec)
        assert refused.value.retry_after_s == 3600


async def test_a_wedged_engine_is_replaced(tmp_path: Path) -> None:
    healed = tmp_path / "healed"
    orders = {"a": {"hang_after": 2, "healed_by": str(healed)}}
    async with machine_room(rules=Rules(wedged_after_s=0.3), orders=orders) as room:
        spec = room.spec("a")
        with pytest.raises(EngineCrashed):
            await room.ask(spec, max_tokens=10)
        healed.touch()
        assert await room.ask(spec) == "bcd"
        assert room.n_started["a"] == 2


async def test_an_engine_that_is_busy_is_not_taken_for_wedged() -> None:
    async with machine_room(rules=Rules(wedged_after_s=0.2), orders={"a": {"step_s": 0.05}}) as room:
        assert len(await room.ask(room.spec("a"), max_tokens=12)) == 12
        assert room.n_started["a"] == 1


async def test_an_idle_engine_is_not_taken_for_wedged() -> None:
    async with machine_room(rules=Rules(wedged_after_s=0.05)) as room:
        spec = room.spec("a")
        await room.ask(spec)
        await asyncio.sleep(0.2)  # several looks at it
        assert await room.ask(spec) == "bcd"
        assert room.n_started["a"] == 1


async def test_a_stopped_process_is_found_and_replaced() -> None:
    async with machine_room(rules=Rules(wedged_after_s=0.3)) as room:
        spec = room.spec("a")
        await room.ask(spec)
        client = room.host(spec).client
        assert client is not None
        os.kill(client.pid, signal.SIGSTOP)
        with pytest.raises(EngineCrashed):
            await room.ask(spec)
        assert await room.ask(spec) == "bcd"


async def test_a_model_that_nobody_uses_is_unloaded_after_its_ttl() -> None:
    async with machine_room() as room:
        idle, pinned = room.spec("idle", ttl_s=0.05), room.spec("pinned", ttl_s=0.05, is_pinned=True)
        await room.ask(pinned)
        await room.ask(idle)
        await until(lambda: room.host(idle).state == "stored")
        assert room.host(pinned).state == "ready"
        assert await room.ask(idle) == "bcd"


async def test_without_autoload_only_an_operator_loads() -> None:
    async with machine_room(rules=Rules(autoload=False)) as room:
        spec = room.spec("a")
        with pytest.raises(EngineUnavailable, match="appliance models load a"):
            await room.ask(spec)
        await room.supervisor.load(spec)
        assert await room.ask(spec) == "bcd"
        await room.supervisor.unload(spec.key, "operator")
        with pytest.raises(EngineUnavailable, match="autoload is off"):
            await room.ask(spec)


async def test_a_load_can_be_broken_off(tmp_path: Path) -> None:
    async with machine_room(orders={"a": {"load_until": str(tmp_path / "never")}}) as room:
        spec = room.spec("a")
        asked = asyncio.create_task(room.ask(spec))
        await until(lambda: room.host(spec).client is not None)
        assert await room.supervisor.unload(spec.key, "operator")
        with pytest.raises(EngineUnavailable, match="unloaded by an operator"):
            await asked
        assert (room.host(spec).state, room.host(spec).memory) == ("stored", {})


async def test_a_slow_load_holds_up_no_other_model_that_has_room(tmp_path: Path) -> None:
    done = tmp_path / "done"
    async with machine_room(orders={"slow": {"load_until": str(done)}}) as room:
        slow, quick = room.spec("slow"), room.spec("quick")
        waiting = asyncio.create_task(room.ask(slow))
        await until(lambda: room.host(slow).state == "loading")
        assert await room.ask(quick) == "bcd"
        assert not waiting.done()
        done.touch()
        assert await waiting == "bcd"


async def test_what_happens_to_models_is_told(tmp_path: Path) -> None:
    told: list[ModelEvent] = []
    async with machine_room(limits=ONE, orders={"b": {"load_s": 0.2}}) as room:
        room.supervisor.feed.listen(told.append)
        await room.ask(room.spec("a", n_bytes=BIG))
        await room.ask(room.spec("b", n_bytes=BIG))
    kinds = [(event.model, event.kind) for event in told if event.kind != "progress"]
    assert kinds == [
        ("a", "loading"),
        ("a", "ready"),
        ("a", "draining"),
        ("a", "unloaded"),
        ("b", "loading"),
        ("b", "ready"),
    ]
    ratios = [event.fields["load_ratio"] for event in told if event.kind == "progress" and event.model == "b"]
    assert ratios == sorted(ratios)
    assert ratios[-1] == 1.0


async def test_a_model_that_wants_a_gpu_is_refused_without_one_and_never_computed_on_the_processor() -> None:
    async with machine_room() as room:
        with pytest.raises(GPUMissing, match="require_gpu"):
            await room.ask(room.spec("a", require_gpu=True))
        assert room.n_started == {}


async def test_an_engine_that_finds_no_gpu_although_one_is_wanted_is_ended() -> None:
    limits = {RAM: 1 << 40, "GPU0": 1 << 40}
    async with machine_room(limits=limits, orders={"a": {"has_gpu": False}}) as room:
        with pytest.raises(EngineUnavailable, match="llama.cpp found none"):
            await room.ask(room.spec("a", require_gpu=True))


async def test_a_lost_gpu_makes_the_model_unready_with_the_reason_until_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("appliance.supervisor.guard.GPU_POLL_S", 0.02)
    limits = {RAM: 1 << 40, "GPU0": 1 << 40}
    async with machine_room(
        limits=limits, rules=Rules(wedged_after_s=0.2), orders={"a": {"has_gpu": True}, "b": {}}
    ) as room:
        spec, other = room.spec("a", require_gpu=True), room.spec("b")
        await room.ask(spec)
        room.budget.lost = "GPU 0 has fallen off the bus"
        await until(lambda: room.host(spec).state == "failed")
        with pytest.raises(ApplianceError, match="fallen off the bus|require_gpu"):
            await room.ask(spec)
        assert await room.ask(other) == "bcd"
        room.budget.lost = None
        await until(lambda: room.host(spec).state == "ready")
        assert await room.ask(spec) == "bcd"


async def test_an_idle_engine_is_tried_out_after_a_gpu_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.supervisor.guard.GPU_POLL_S", 0.02)
    limits = {RAM: 1 << 40, "GPU0": 1 << 40}
    async with machine_room(
        limits=limits, rules=Rules(wedged_after_s=0.2), orders={"a": {"has_gpu": True, "hang_after": 3}}
    ) as room:
        spec = room.spec("a")
        await room.ask(spec)  # three steps: the next one hangs
        room.budget.lost = "GPU 0 must be reset"
        await until(lambda: room.n_started["a"] == 2)


async def test_an_embedding_engine_is_tried_out_with_what_it_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.supervisor.guard.GPU_POLL_S", 0.02)
    limits = {RAM: 1 << 40, "GPU0": 1 << 40}
    async with machine_room(limits=limits, orders={"a": {"has_gpu": True}}) as room:
        spec = room.spec("a", header=EMBEDDING_HEADER, wanted=Wanted(n_ctx=32, is_embedding=True))
        await room.supervisor.load(spec)
        room.budget.lost = "GPU 0 must be reset"
        # A second time: the first was no reason to end it.
        await until(lambda: (load := room.host(spec).load_info) is not None and load.n_steps >= 2)
        assert room.n_started["a"] == 1


async def test_a_stop_ends_loads_and_refuses_those_who_wait(tmp_path: Path) -> None:
    async with machine_room(orders={"a": {"load_until": str(tmp_path / "never")}}) as room:
        asked = asyncio.create_task(room.ask(room.spec("a")))
        await until(lambda: room.n_started)
        await room.supervisor.stop()
        with pytest.raises(EngineUnavailable, match="stopping"):
            await asked
