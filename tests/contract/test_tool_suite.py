"""Sixty requests with tools: every call can be parsed, is of a tool that there is, and its arguments are valid."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from jsonschema import Draft202012Validator
from openai.types.chat.chat_completion import Choice

from tests.contract.tool_cases import CASES, Case
from tests.server import start_server

pytestmark = pytest.mark.timeout(300)  # the first test waits for all answers

AT_ONCE = 8
# A small model may lose itself in a text that nothing bounds.
MOST_CUT_OFF = 3

Answers = dict[str, Choice]


@pytest.fixture(scope="module")
def answers() -> Answers:
    """Of each case, the only choice of its answer."""
    with start_server(APPLIANCE_N_THREADS="2") as server:
        return asyncio.run(_ask_all(server.url))


async def _ask_all(url: str) -> Answers:
    turns = asyncio.Semaphore(AT_ONCE)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:

        async def ask(number: int, case: Case) -> Choice:
            async with turns:
                body: dict[str, Any] = {"seed": number, **case.body}
                answer = await client.chat.completions.create(model="smollm2-135m-instruct", **body)
            (choice,) = answer.choices
            return choice

        found = await asyncio.gather(*(ask(number, case) for number, case in enumerate(CASES)))
    return {case.name: choice for case, choice in zip(CASES, found, strict=True)}


def test_there_are_sixty_and_no_two_are_named_alike() -> None:
    assert len({case.name for case in CASES}) == len(CASES) == 60


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_called_is_valid(answers: Answers, case: Case) -> None:
    choice = answers[case.name]
    calls = list(choice.message.tool_calls or ())
    schemas = {tool["name"]: tool.get("parameters") for tool in case.tools}
    is_cut = choice.finish_reason == "length"
    for number, call in enumerate(calls):
        assert call.type == "function"
        assert call.function.name in schemas
        if is_cut and number == len(calls) - 1:
            continue  # its arguments go as far as they came
        arguments = json.loads(call.function.arguments)
        schema = schemas[call.function.name]
        if schema is None:
            assert arguments == {}
        else:
            Draft202012Validator(schema).validate(arguments)
    if case.choice == "none" or not case.tools:
        assert not calls
    if case.must_call and not is_cut:
        assert calls
        assert not choice.message.content
    if case.choice in schemas:
        assert {call.function.name for call in calls} <= {case.choice}
    if case.is_parallel is False or case.choice in schemas:
        assert len(calls) <= 1
    if not is_cut:
        assert choice.finish_reason == ("tool_calls" if calls and case.choice not in schemas else "stop")


def test_few_are_cut_off(answers: Answers) -> None:
    """Of those that are one call of bounded depth: a text may be long, and so small a model finds no end to calls, nor
    to what holds itself.
    """
    single = [case for case in CASES if case.must_call and not case.name.startswith("several")]
    single = [case for case in single if case.tools[-1]["name"] != "draw"]
    cut = [case.name for case in single if answers[case.name].finish_reason == "length"]
    assert len(cut) <= MOST_CUT_OFF, cut
