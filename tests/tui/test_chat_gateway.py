"""The chat in front of a real gateway, whose engine is a real process with a model that repeats the alphabet."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.gateway import Gateway, engine_config, run_gateway
from tests.response_cache import open_cache
from tests.tui.recorded import until
from tests.tui.talk import Talk, talk


def talk_to(gateway: Gateway) -> AbstractAsyncContextManager[Talk]:
    return talk(gateway, key=gateway.admin["Authorization"].removeprefix("Bearer "))


async def test_an_answer_has_the_servers_figures(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache, run_gateway(cache=cache) as gateway, talk_to(gateway) as it:
        it.screen.session.conversation.sampling = {"temperature": 0, "max_tokens": 5}
        answer = await it.ask("a")
        figures = answer.figures
        assert (answer.outcome, answer.finish_reason, figures.completion_tokens, figures.cache) == (
            "complete",
            "length",
            5,
            "miss",
        )
        assert figures.prompt_tokens
        assert figures.tokens_per_s
        await it.until(answer.text, "cut off at the token limit", "response cache: miss", "/ 256 (")
        again = it.screen.session.conversation.find(answer.parent)
        await it.press("ctrl+r")
        second = await it.end(1)
        assert (second.text, second.parent) == (answer.text, again.id)
        await it.until("response cache: hit")


async def test_to_stop_ends_the_work_in_the_engine() -> None:
    async with run_gateway(orders={"fake": {"step_s": 0.05}}) as gateway, talk_to(gateway) as it:
        it.screen.session.conversation.sampling = {"max_tokens": 200, "temperature": 0}
        await it.send("a")
        await until(it.pilot, lambda: it.screen.session.turn is not None and it.screen.session.turn.answer.text)
        await it.press("escape")
        answer = await it.end(0)
        assert answer.outcome == "stopped"
        await until(it.pilot, lambda: not gateway.activity.running())


@pytest.mark.parametrize("text", ["x" * 2000])
async def test_a_prompt_that_is_too_long_is_one_sentence(text: str) -> None:
    async with run_gateway() as gateway, talk_to(gateway) as it:
        answer = await it.ask(text)
        assert answer.problem is not None
        assert "context holds 256" in answer.problem
        assert it.typed == text


async def test_too_many_requests_are_one_sentence_with_the_time() -> None:
    async with run_gateway(engine_config(max_running=1), max_open=1, orders={"fake": {"step_s": 0.3}}) as gateway:
        other = asyncio.create_task(gateway.chat("a", max_tokens=100))
        async with talk_to(gateway) as it:
            await until(it.pilot, lambda: gateway.activity.running())
            answer = await it.ask("Why?")
            assert answer.problem is not None
            assert "Try again in " in answer.problem
            assert it.typed == "Why?"
        other.cancel()
        with pytest.raises(asyncio.CancelledError):
            await other


async def test_another_model_is_loaded_by_asking_it() -> None:
    async with run_gateway(models={"one": 0, "two": 0}) as gateway, talk_to(gateway) as it:
        await it.until("one (ready)")
        await it.press("ctrl+t")
        await it.until("two  not loaded: asking loads it")
        await it.press("down", "down", "enter")
        await it.until("two (stored)")
        answer = await it.ask("a")
        assert (answer.model, answer.outcome) == ("two", "complete")
        await it.until("two (ready)")


async def test_a_model_that_is_not_there_is_one_sentence() -> None:
    async with run_gateway() as gateway, talk_to(gateway) as it:
        it.screen.session.conversation.model = "gone"
        answer = await it.ask("a")
        assert answer.problem is not None
        assert "gone" in answer.problem
        assert "fake" in answer.problem


async def test_an_engine_that_crashes_leaves_a_sentence_and_one_can_ask_again() -> None:
    async with run_gateway(orders={"fake": {"crash_after": 4}}) as gateway, talk_to(gateway) as it:
        it.screen.session.conversation.sampling = {"temperature": 0}
        answer = await it.ask("a")
        assert answer.outcome == "failed"
        assert answer.problem
        await it.until("X ")
