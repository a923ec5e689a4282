"""What the other tests of the terminal UI stand on."""

from __future__ import annotations

import pytest

from appliance.schemas.admin import Status
from tests.tui.recorded import opened, recorded, refusal, screen_text, until
from tui.client import Comment, Server, ServerError, Target


async def test_it_is_the_same_server_after_a_pause() -> None:
    async with recorded() as server, opened(server, "doctor") as pilot:
        app = pilot.app
        await server.stop()
        await until(pilot, lambda: "No server answers" in screen_text(pilot))
        await server.start()
        await until(pilot, lambda: "No server answers" not in screen_text(pilot))
        assert app.is_running


async def test_a_stream_is_pushed_by_the_test() -> None:
    async with recorded() as server:
        server.stream("POST", "/v1/chat/completions", {"X-Cache": "miss"})
        client = Server(Target(server.url))
        stream = client.stream("POST", "/v1/chat/completions", {"model": "small"})
        headers = await anext(stream)
        assert headers["X-Cache"] == "miss"  # type: ignore[index]
        (asked,) = server.of("POST")
        assert asked.body == {"model": "small"}
        assert asked.stream is not None
        asked.stream.comment("prefill 1/2")
        asked.stream.push({"n": 1})
        assert await anext(stream) == Comment("prefill 1/2")
        assert await anext(stream) == {"n": 1}
        asked.stream.end()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        await client.close()


async def test_a_stream_may_break_and_a_client_may_leave() -> None:
    async with recorded() as server:
        server.stream("GET", "/broken")
        client = Server(Target(server.url))
        stream = client.stream("GET", "/broken")
        await anext(stream)
        broken = server.of("GET", "/broken")[0].stream
        assert broken is not None
        broken.break_off()
        with pytest.raises(ServerError, match="broke"):
            await anext(stream)
        left = client.stream("GET", "/broken")
        await anext(left)
        await left.aclose()
        gone = server.of("GET", "/broken")[1].stream
        assert gone is not None
        await gone.client_left.wait()
        await client.close()


async def test_keys_and_refusals_are_as_the_appliances() -> None:
    async with recorded() as server:
        server.key = "right"
        client = Server(Target(server.url, "wrong"))
        with pytest.raises(ServerError, match="key isn't known") as unknown:
            await client.get("/admin/status", Status)
        assert unknown.value.kind == "unauthorized"
        await client.close()
        client = Server(Target(server.url, "right"))
        server.answer("GET", "/admin/status", refusal(429, "too many", "queue_full", Retry_After="1"))
        with pytest.raises(ServerError, match=r"Too many\.") as busy:
            await client.get("/admin/status", Status)
        assert (busy.value.status, busy.value.code) == (429, "queue_full")
        await client.close()
