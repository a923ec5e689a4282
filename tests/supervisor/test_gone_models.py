"""Models that there are no more, such as those that an operator has removed from the lock."""

from __future__ import annotations

import asyncio

from appliance.supervisor.host import ModelHost
from tests.machine_room import machine_room, until


async def test_models_that_there_are_no_more_are_unloaded_and_forgotten_once_their_requests_have_ended() -> None:
    async with machine_room(orders={"a": {"step_s": 0.005}}) as room:
        gone, idle, kept = room.spec("a"), room.spec("idle"), room.spec("kept")
        for spec in (idle, kept):
            await room.ask(spec)
        long = asyncio.create_task(room.ask(gone, max_tokens=20))
        await until(lambda: room.host(gone).n_users)
        room.supervisor.forget_all_but({kept.key})
        assert len(await long) == 20
        await until(lambda: set(room.supervisor.hosts) == {kept.key})
        assert room.host(kept).state == "ready"


async def test_a_model_that_there_is_no_more_serves_those_who_wait_for_it_and_is_then_forgotten() -> None:
    async with machine_room(orders={"a": {"load_s": 0.05}}) as room:
        gone, kept = room.spec("a"), room.spec("kept")
        await room.ask(kept)
        waiting = asyncio.create_task(room.ask(gone, max_tokens=20))
        await until(lambda: room.host(gone).n_waiting)
        room.supervisor.forget_all_but({kept.key})
        assert len(await waiting) == 20
        await until(lambda: set(room.supervisor.hosts) == {kept.key})


async def test_a_model_whose_requests_were_just_given_its_engine_is_forgotten_too() -> None:
    """Between the moment it is ready and that in which they go on."""
    async with machine_room() as room:
        gone, kept = room.spec("a"), room.spec("kept")
        await room.ask(kept)
        tell = room.supervisor._tell

        def forget_when_ready(kind: str, host: ModelHost, **fields: object) -> None:
            tell(kind, host, **fields)
            if kind == "ready":
                asyncio.get_running_loop().call_soon(room.supervisor.forget_all_but, {kept.key})

        room.supervisor._tell = forget_when_ready  # type: ignore[method-assign]
        assert await room.ask(gone) == "bcd"
        await until(lambda: set(room.supervisor.hosts) == {kept.key})
