"""Events of a chat completion, as the server sends them, and what becomes of them in an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.tui.recorded import Answer as Answered
from tests.tui.recorded import Stream, recorded, refusal
from tests.tui.talk import CHAT, NOW_S, ask, chunk, conversation, give, last
from tui.chat.conversation import Answer, ToolCall
from tui.chat.figures import figures_text
from tui.chat.turn import Turn, request_body
from tui.client import Server, Target

NOT_IT = "What answers at URL is not the appliance: it gave status {} and no reason."


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def run(url: str, clock: Callable[[], float] | None = None, key: str | None = None) -> Turn:
    """A turn to its end."""
    server = Server(Target(url, key))
    turn = Turn(Answer(parent="q", created_s=NOW_S), **({"clock": clock} if clock else {}))
    talk = conversation()
    try:
        async with asyncio.timeout(10):
            await turn.run(server, request_body(talk, ask(talk, "Why?")))
    finally:
        await server.close()
    return turn


async def test_an_answer_with_all_that_there_is() -> None:
    async with recorded() as server:
        give(
            server,
            chunk(role="assistant", content=""),
            "prefill 512/3000",
            "keep-alive",
            chunk(reasoning_content="Let me "),
            chunk(reasoning_content="think."),
            chunk(content="Bec"),
            chunk(content="ause\u2028\x85."),
            chunk(tool_calls=[{"index": 0, "id": "1", "function": {"name": "look", "arguments": '{"a"'}}]),
            chunk(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}]),
            chunk("stop"),
            last(),
            headers={"X-Cache": "hit", "Age": "90"},
        ).end()
        turn = await run(server.url, Clock())
        (asked,) = server.of("POST")
    answer = turn.answer
    assert answer.outcome == "complete"
    assert (answer.model, answer.finish_reason) == ("small", "stop")
    assert (answer.reasoning, answer.text) == ("Let me think.", "Because\u2028\x85.")
    assert answer.tool_calls == [ToolCall(name="look", arguments='{"a": 1}')]
    assert figures_text(answer) == "first after 0.25 s · 20 + 2 tokens in 0.00 s · response cache: hit, 1 min 30 s old"
    assert asked.body == {
        "messages": [{"role": "user", "content": "Why?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_raw_line_ends_of_other_kinds_end_no_event() -> None:
    async with recorded() as server:
        stream = Stream({})
        stream._frames.put_nowait('data: {"choices": [{"delta": {"content": "a\u2028b\x85c"}}]}\r\n\r\n'.encode())
        stream.end()
        server.answer("POST", CHAT, lambda asked: stream)
        turn = await run(server.url)
    assert (turn.answer.text, turn.answer.outcome) == ("a\u2028b\x85c", "complete")


async def test_a_connection_that_breaks_keeps_what_has_come() -> None:
    clock = Clock()
    async with recorded() as server:
        give(server, chunk(content="Half"), headers={"X-Cache": "bypass"}).break_off()
        turn = await run(server.url, clock)
    answer = turn.answer
    assert (answer.text, answer.outcome) == ("Half", "failed")
    assert answer.problem is not None
    assert answer.problem.startswith(f"The connection to {server.url} broke")
    assert figures_text(answer) == "broken off · first after 0.00 s · 1 token in 0.00 s · response cache: bypass"


async def test_to_cancel_stops_the_answer_at_the_server_too() -> None:
    async with recorded() as server:
        stream = give(server, chunk(content="One "), chunk(content="two"))
        client = Server(Target(server.url))
        clock = Clock()
        turn = Turn(Answer(parent="q", created_s=NOW_S), clock=clock)
        running = asyncio.create_task(turn.run(client, {"messages": []}))
        async with asyncio.timeout(10):
            while turn.answer.text != "One two":
                await asyncio.sleep(0.001)
            clock.now_s = 0.5
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await stream.client_left.wait()
        await client.close()
    assert (turn.answer.text, turn.answer.outcome, turn.answer.problem) == ("One two", "stopped", None)
    assert figures_text(turn.answer) == "stopped · 2.0 tokens/s · first after 0.00 s · 2 tokens in 0.50 s"


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (
            refusal(429, "8 requests run and wait already; try again later", "queue_full", Retry_After="7"),
            "8 requests run and wait already; try again later. Try again in 7 s.",
        ),
        (refusal(404, "no model big; there are: small", "model_not_found"), "No model big; there are: small."),
        (
            refusal(400, "the prompt has 900 tokens; this model's context holds 512", "context_length_exceeded"),
            "The prompt has 900 tokens; this model's context holds 512.",
        ),
        (Answered(b"<html>", 404), NOT_IT.format(404)),
        (Answered(b"<html>", 200), NOT_IT.format(200)),
    ],
)
async def test_a_refusal_is_one_sentence(answer: Answered, sentence: str) -> None:
    async with recorded() as server:
        server.answer("POST", CHAT, answer)
        turn = await run(server.url)
        url = server.url
    assert turn.answer.outcome == "failed"
    assert turn.answer.problem is not None
    assert turn.answer.problem == sentence.replace("URL", url + CHAT)


async def test_an_error_in_the_middle_is_said_and_what_came_is_kept() -> None:
    async with recorded() as server:
        error = {"error": {"message": "the engine process ended", "type": "server_error", "code": "engine_crashed"}}
        give(server, chunk(content="Half"), error).break_off()
        turn = await run(server.url)
    assert (turn.answer.text, turn.answer.problem) == ("Half", "The engine process ended.")


@pytest.mark.parametrize(
    "event",
    [
        {"choices": None},
        {"choices": [{"delta": {"content": 5}}]},
        {"choices": [], "usage": {"prompt_tokens": "many"}},
        {"choices": [{"delta": {"tool_calls": [{"index": 1_000_000_000}]}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": -1}]}}]},
        ["no", "object"],
        7,
    ],
)
async def test_what_is_no_chat_completion_is_said(event: Any) -> None:
    async with recorded() as server:
        give(server, event).end()
        turn = await run(server.url)
    assert turn.answer.outcome == "failed"
    assert turn.answer.problem


async def test_nobody_there_and_a_wrong_key() -> None:
    async with recorded() as server:
        server.key = "right"
        turn = await run(server.url, key="wrong")
        assert turn.answer.problem == "The API key isn't known."
        assert turn.error is not None
        assert turn.error.kind == "unauthorized"
        await server.stop()
        turn = await run(server.url, key="right")
        assert turn.answer.problem == f"No server answers at {server.url}."
