"""Things that happen to models at the same moment, and what is left of them afterwards: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from appliance.errors import ApplianceError, DoesNotFit, EngineCrashed, EngineFailed, EngineUnavailable
from appliance.hardware.fit import Room
from appliance.hardware.memory_use import RAM
from appliance.supervisor.budget import Booking
from appliance.supervisor.events import ModelEvent
from appliance.supervisor.host import ModelHost
from appliance.supervisor.spec import ModelSpec
from appliance.supervisor.supervisor import Rules
from tests.machine_room import MIB, LosableGPUs, MachineRoom, machine_room, until

BIG = 800 * MIB
ONE = {RAM: 1200 * MIB}
AT_ONCE = Rules(max_wait_s=0.0)
IMPATIENT = Rules(max_wait_s=0.0, drain_s=0.02)


def is_away(host: ModelHost) -> bool:
    """It has nothing: no process, no memory, nobody who uses it or waits for it."""
    rest = (host.client, host.fit, host.info, host.memory, host.n_users, host.n_waiting)
    return host.state in ("stored", "failed") and rest == (None, None, None, {}, 0, 0)


async def is_away_in_the_end(host: ModelHost) -> None:
    await until(lambda: is_away(host))


async def test_a_load_that_was_broken_off_leaves_nothing_and_can_be_begun_again(tmp_path: Path) -> None:
    never = {"load_until": str(tmp_path / "never")}
    async with machine_room(orders={"a": never}) as room:
        spec = room.spec("a")
        asked = asyncio.create_task(room.ask(spec))
        await until(lambda: room.host(spec).client)
        process = psutil.Process(room.host(spec).client.pid)  # type: ignore[union-attr]
        await room.supervisor.unload(spec.key, "operator")
        with pytest.raises(EngineUnavailable):
            await asked
        assert is_away(room.host(spec))
        assert not process.is_running()
        assert room.host(spec).error is None  # nothing is wrong with it
        room.orders["a"] = {}
        assert await room.ask(spec) == "bcd"


async def test_a_load_can_be_broken_off_by_several_at_once(tmp_path: Path) -> None:
    async with machine_room(orders={"a": {"load_until": str(tmp_path / "never")}}) as room:
        spec = room.spec("a")
        asked = asyncio.create_task(room.ask(spec))
        await until(lambda: room.host(spec).client)
        breaking = [asyncio.create_task(room.supervisor.unload(spec.key, "operator")) for _ in range(2)]
        await asyncio.wait([asked])
        breaking.append(asyncio.create_task(room.supervisor.unload(spec.key, "operator")))
        await asyncio.gather(*breaking)
        assert is_away(room.host(spec))
        room.orders["a"] = {}
        assert await room.ask(spec) == "bcd"


async def test_a_load_can_be_broken_off_before_its_process_was_started(tmp_path: Path) -> None:
    async with machine_room(orders={"a": {"load_until": str(tmp_path / "never")}}) as room:
        spec = room.spec("a")
        asked = asyncio.create_task(room.ask(spec))
        await until(lambda: room.host(spec).memory)
        assert await room.supervisor.unload(spec.key, "operator")
        with pytest.raises(EngineUnavailable):
            await asked
        assert is_away(room.host(spec))
        room.orders["a"] = {}
        assert await room.ask(spec) == "bcd"


async def test_who_leaves_while_his_model_loads_is_counted_no_more(tmp_path: Path) -> None:
    done = tmp_path / "done"
    async with machine_room(orders={"a": {"load_until": str(done)}}) as room:
        spec = room.spec("a")
        left, stayed = (asyncio.create_task(room.ask(spec)) for _ in range(2))
        await until(lambda: room.host(spec).n_waiting == 2)
        left.cancel()
        await asyncio.wait([left])
        assert room.host(spec).n_waiting == 1
        done.touch()
        assert await stayed == "bcd"
        assert (room.host(spec).n_users, room.host(spec).n_waiting) == (0, 0)


async def test_who_leaves_in_the_moment_in_which_he_is_given_the_engine_is_counted_no_more() -> None:
    async with machine_room() as room:
        spec = room.spec("a")
        host = room.host(spec)
        asked = asyncio.create_task(room.ask(spec))
        room.supervisor.feed.listen(lambda event: event.kind == "ready" and asked.cancel())
        await asyncio.wait([asked])
        assert asked.cancelled()
        assert (host.state, host.n_users, host.n_waiting) == ("ready", 0, 0)


async def test_two_who_load_a_model_at_once_start_it_once() -> None:
    async with machine_room() as room:
        spec = room.spec("a")
        await asyncio.gather(*(room.supervisor.load(spec) for _ in range(3)), room.ask(spec))
        assert room.n_started == {"a": 1}


async def test_two_who_unload_a_model_at_once_end_it_once() -> None:
    told: list[ModelEvent] = []
    async with machine_room() as room:
        spec = room.spec("a")
        await room.ask(spec)
        room.supervisor.feed.listen(told.append)
        await asyncio.gather(*(room.supervisor.unload(spec.key, "operator") for _ in range(3)))
        assert is_away(room.host(spec))
        assert [event.kind for event in told] == ["draining", "unloaded"]


async def test_a_request_that_comes_while_its_model_drains_gets_the_next_engine() -> None:
    async with machine_room(orders={"a": {"step_s": 0.005}}) as room:
        spec = room.spec("a")
        long = asyncio.create_task(room.ask(spec, max_tokens=20))
        await until(lambda: room.host(spec).n_users)
        unloading = asyncio.create_task(room.supervisor.unload(spec.key, "operator"))
        await until(lambda: room.host(spec).state == "draining")
        assert await room.ask(spec) == "bcd"
        assert len(await long) == 20
        await unloading
        assert room.n_started == {"a": 2}


async def test_without_autoload_a_request_that_comes_while_its_model_drains_does_not_bring_it_back() -> None:
    async with machine_room(rules=Rules(autoload=False), orders={"a": {"step_s": 0.005}}) as room:
        spec = room.spec("a")
        await room.supervisor.load(spec)
        long = asyncio.create_task(room.ask(spec, max_tokens=20))
        await until(lambda: room.host(spec).n_users)
        unloading = asyncio.create_task(room.supervisor.unload(spec.key, "operator"))
        await until(lambda: room.host(spec).state == "draining")
        with pytest.raises(EngineUnavailable, match="autoload is off"):
            await room.ask(spec)
        await asyncio.gather(unloading, long)
        assert room.n_started == {"a": 1}


async def test_a_request_that_comes_as_its_idle_model_is_unloaded_is_answered_in_full() -> None:
    async with machine_room(orders={"a": {"step_s": 0.005}}) as room:
        spec = room.spec("a", ttl_s=0.03)
        host = room.host(spec)
        await room.ask(spec)
        asked: list[asyncio.Task[str]] = []
        end_idle = room.supervisor._end_idle

        def ask_then(now: float) -> float | None:
            if host.state == "ready" and now >= host.last_used_at + 0.03 and not asked:  # it is about to begin
                asked.append(asyncio.create_task(room.ask(spec, max_tokens=20)))
            return end_idle(now)

        room.supervisor._end_idle = ask_then  # type: ignore[method-assign]
        await until(lambda: asked)
        assert len(await asked[0]) == 20


async def test_room_that_is_made_for_one_is_taken_by_no_other() -> None:
    started: list[str] = []
    async with machine_room(limits=ONE, rules=AT_ONCE) as room:
        specs = {name: room.spec(name, n_bytes=BIG) for name in "abcd"}
        await room.ask(specs["a"])
        room.supervisor.feed.listen(lambda event: event.kind == "loading" and started.append(event.model))
        asked = []
        for name in "dcb":  # the host that was made first is not the one that waits longest
            asked.append(asyncio.create_task(room.ask(specs[name])))
            await until(lambda name=name: room.host(specs[name]).n_waiting)
        assert await asyncio.gather(*asked) == ["bcd"] * 3
        assert started == ["d", "c", "b"]


async def test_a_small_model_does_not_wait_for_a_drain_if_it_has_room_beside_all_others() -> None:
    async with machine_room(limits={RAM: 1500 * MIB}, rules=AT_ONCE, orders={"a": {"step_s": 0.01}}) as room:
        a, b, small = room.spec("a", n_bytes=BIG), room.spec("b", n_bytes=BIG), room.spec("small", n_bytes=MIB)
        long = asyncio.create_task(room.ask(a, max_tokens=50))
        await until(lambda: room.host(a).n_users)
        other = asyncio.create_task(room.ask(b))
        await until(lambda: room.host(a).state == "draining")
        waiting = asyncio.create_task(room.ask(small))
        assert await asyncio.gather(long, other, waiting)
        assert room.n_started == {"a": 1, "b": 1, "small": 1}


async def test_a_stop_while_room_is_made_ends_everything() -> None:
    async with machine_room(limits=ONE, rules=AT_ONCE) as room:
        a, b = room.spec("a", n_bytes=BIG), room.spec("b", n_bytes=BIG)
        running = asyncio.create_task(room.ask(a, max_tokens=1_000_000))
        await until(lambda: room.host(a).n_users)
        process = psutil.Process(room.host(a).client.pid)  # type: ignore[union-attr]
        waiting = asyncio.create_task(room.ask(b))
        await until(lambda: room.host(a).state == "draining")
        await room.supervisor.stop()
        with pytest.raises(EngineFailed):
            await running
        with pytest.raises(EngineUnavailable, match="stopping"):
            await waiting
        assert not process.is_running()
        assert room.n_started == {"a": 1}


class SlowToFree(LosableGPUs):
    """A driver that gives memory back a few looks after its process has ended."""

    n_looks = 5

    def rooms(self, bookings: Sequence[Booking], freed: Sequence[Booking] = ()) -> tuple[Room, ...]:
        ram, gpu = super().rooms(bookings, freed)
        if self.n_looks and not any(booking.is_settled for booking in (*bookings, *freed)):
            self.n_looks -= 1
            gpu = Room(gpu.device, gpu.free_bytes // 2)
        return ram, gpu


async def test_who_room_was_made_for_gets_all_of_it_also_if_it_is_given_back_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("appliance.supervisor.ledger.FREEING_POLL_S", 0.001)
    limits = {RAM: 1 << 40, "GPU0": 2200 * MIB}
    async with machine_room(limits=limits, rules=AT_ONCE, orders={name: {"has_gpu": True} for name in "ab"}) as room:
        a, b = room.spec("a", n_bytes=BIG), room.spec("b", n_bytes=BIG)
        await room.ask(a)
        alone = room.host(a).fit
        room.budget.__class__ = SlowToFree
        await room.ask(b)
        fit = room.host(b).fit
        assert alone is not None
        assert fit is not None
        assert fit.run.n_gpu_layers == alone.run.n_gpu_layers > 0


async def test_a_lost_gpu_is_waited_for_and_not_looked_for_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.supervisor.guard.GPU_POLL_S", 0.02)
    limits = {RAM: 1 << 40, "GPU0": 1 << 40}
    async with machine_room(limits=limits, orders={"a": {"has_gpu": True}}) as room:
        spec = room.spec("a", require_gpu=True)
        await room.ask(spec)
        room.budget.lost = "GPU 0 must be reset"
        await until(lambda: is_away(room.host(spec)))
        await until(lambda: asyncio.get_running_loop().time() > room.host(spec).retry_at + 0.1)
        n_looks = 0
        rooms = room.budget.rooms

        def counted(bookings: Sequence[Booking], freed: Sequence[Booking] = ()) -> tuple[Room, ...]:
            nonlocal n_looks
            n_looks += 1
            return rooms(bookings, freed)

        room.budget.rooms = counted  # type: ignore[method-assign]
        for _ in range(100):  # turns of the event loop
            await asyncio.sleep(0)
        assert n_looks <= 2


async def test_an_error_in_a_decision_is_not_the_last_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("appliance.supervisor.supervisor.LOOK_AGAIN_S", 0.01)
    async with machine_room() as room:
        decide, n_failures = room.supervisor._switching.decide, 2

        def fail_at_first(*arguments: object) -> object:
            nonlocal n_failures
            if n_failures:
                n_failures -= 1
                raise OSError("/proc is not there")
            return decide(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(room.supervisor._switching, "decide", fail_at_first)
        assert await room.ask(room.spec("a")) == "bcd"
    assert "/proc is not there" in caplog.text


def version(room: MachineRoom, number: int, **options: object) -> ModelSpec:
    """One of several of a model."""
    import msgspec

    spec = room.spec("a", **options)
    record = msgspec.structs.replace(spec.stored.record, gguf_sha256=f"{number}" * 64)
    stored = msgspec.structs.replace(spec.stored, record=record)
    return ModelSpec(stored, spec.wanted, max_running=4, max_open=200, is_pinned=spec.is_pinned)


@pytest.mark.parametrize("limits", [ONE, None])
async def test_a_version_takes_the_place_of_another_also_of_one_that_is_pinned(limits: dict[str, int] | None) -> None:
    async with machine_room(limits=limits) as room:
        old, new = (version(room, number, n_bytes=BIG, is_pinned=True) for number in (1, 2))
        await room.ask(old)
        switched: list[str] = []
        await room.supervisor.replace(new, lambda: switched.append(room.host(new).state))
        assert switched == ["ready"]
        assert is_away(room.host(old))


async def test_a_version_that_can_not_be_loaded_is_not_switched_to_and_the_old_one_serves_on() -> None:
    async with machine_room() as room:
        old, new = version(room, 1), version(room, 2)
        await room.ask(old)
        room.orders["a"] = {"fail": "no such tensor"}
        switched: list[int] = []
        with pytest.raises(EngineUnavailable, match="no such tensor"):
            await room.supervisor.replace(new, lambda: switched.append(1))
        assert switched == []
        assert await room.ask(old) == "bcd"
        assert not room.supervisor._leaving


async def test_why_a_model_was_refused_is_forgotten_once_it_would_fit() -> None:
    async with machine_room(limits=ONE) as room:
        a, b = room.spec("a", n_bytes=BIG, is_pinned=True), room.spec("b", n_bytes=BIG)
        await room.ask(a)
        with pytest.raises(DoesNotFit):
            await room.ask(b)
        host = room.host(b)
        room.supervisor.ledger.recheck_all()
        assert isinstance(host.error, DoesNotFit)
        await room.supervisor.unload(a.key, "operator")
        room.supervisor.ledger.recheck_all()
        assert host.error is None


@pytest.mark.parametrize("seed", range(5))
async def test_after_whatever_has_happened_nothing_is_left(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four models, of which two fit at a time, a bad one, and everything that may be done to them at any time."""
    monkeypatch.setattr("appliance.supervisor.host.BACKOFF_S", (0.0, 0.01))
    chance = random.Random(seed)
    orders = {"b": {"load_s": 0.02}, "c": {"step_s": 0.01}, "bad": {"fail": "no luck"}}
    async with machine_room(limits={RAM: 2300 * MIB}, rules=IMPATIENT, orders=orders) as room:
        specs = [room.spec(name, n_bytes=BIG, ttl_s=chance.choice([None, 0.05])) for name in ("a", "b", "c", "bad")]
        tasks: list[asyncio.Task[object]] = []

        def do_something() -> None:
            spec = chance.choice(specs)
            match chance.randrange(9):
                case 0:
                    tasks.append(asyncio.create_task(room.supervisor.load(spec)))
                case 1:
                    tasks.append(asyncio.create_task(room.supervisor.unload(spec.key, "operator")))
                case 2 if tasks:
                    chance.choice(tasks).cancel()
                case 3:
                    if (client := room.host(spec).client) is not None:
                        client.kill("was ended by a test")
                case 4:
                    room.supervisor.forget_all_but({s.key for s in specs} - {spec.key})
                case _:
                    tasks.append(asyncio.create_task(room.ask(spec, max_tokens=chance.randrange(1, 9))))

        for _ in range(60):
            do_something()
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(chance.choice([0.0, 0.005]))
        async with asyncio.timeout(30):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        allowed = (ApplianceError, EngineCrashed, asyncio.CancelledError)
        assert [r for r in results if isinstance(r, BaseException) and not isinstance(r, allowed)] == []
        for host in list(room.supervisor.hosts.values()):
            assert (host.n_users, host.n_waiting) == (0, 0)
            host.is_wanted = False
        for host in list(room.supervisor.hosts.values()):
            await room.supervisor.unload(host.key, "operator")
            await is_away_in_the_end(host)
        await until(lambda: not room.supervisor._loads and room.supervisor._making_room_for is None)
        assert not room.supervisor._urgent
        assert not room.supervisor._leaving
        assert room.supervisor.ledger.rooms() == (Room(RAM, 2300 * MIB),)
        with contextlib.suppress(ApplianceError):
            assert await room.ask(specs[0]) == "bcd"
        await until(lambda: room.host(specs[0]).state == "ready")
    assert [p for p in psutil.Process().children() if "tests.fake_engine" in p.cmdline()] == []
