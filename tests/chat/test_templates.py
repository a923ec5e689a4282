"""Real models' templates: each renders what it claims to support, and most teach their dialect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from appliance.chat.template import ChatTemplate
from appliance.chat.tools import Tool
from appliance.errors import InvalidRequest
from tests.chat.templates import LEARNT, NAMED, UNLEARNT, WITHOUT_TOOLS, assistant, result, user

TemplateOf = Callable[[str], ChatTemplate]
ALL = (*LEARNT, *NAMED, *UNLEARNT, *WITHOUT_TOOLS)
TOOLS = (
    Tool("get_weather", "says how the weather is", {"type": "object", "properties": {"city": {"type": "string"}}}),
    Tool("find_way", None, {}),
)
SYSTEM = {"role": "system", "content": "be brief"}
ONE, TWO = ("get_weather", '{"city": "Oslo"}'), ("find_way", "{}")
ANSWER = {"role": "assistant", "content": "It rains"}

# Of each shape: the messages, the tools and what of them must be in the prompt.
Shape = tuple[list[dict[str, Any]], tuple[Tool, ...], tuple[str, ...]]
SHAPES: dict[str, Shape] = {
    "plain": ([user()], (), ("hello there",)),
    "system": ([SYSTEM, user()], (), ("be brief", "hello there")),
    "tools": ([user()], TOOLS, ("get_weather", "find_way", "how the weather is", "hello there")),
    "system and tools": ([SYSTEM, user()], TOOLS, ("be brief", "get_weather")),
    "a call": ([user(), assistant(ONE), result("rain")], TOOLS, ("Oslo", "rain")),
    "text and a call": ([user(), assistant(ONE, content="I look"), result("rain")], TOOLS, ("Oslo", "rain")),
    "two calls": ([user(), assistant(ONE, TWO), result("rain"), result("left", 1)], TOOLS, ("Oslo", "rain", "left")),
    "an answer after": ([user(), assistant(ONE), result("rain"), ANSWER, user("thanks")], TOOLS, ("rain", "thanks")),
    "calls without tools": ([user(), assistant(ONE), result("rain"), ANSWER, user("thanks")], (), ("rain", "thanks")),
}

# What a template refuses on purpose, or can't do.
REFUSED = {
    ("google-gemma-2-2b-it", "system"): "System role not supported",
    ("google-gemma-2-2b-it", "system and tools"): "System role not supported",
    ("meta-llama-Llama-3.1-8B-Instruct", "two calls"): "only supports single tool-calls",
    ("meta-llama-Llama-3.2-3B-Instruct", "two calls"): "only supports single tool-calls",
    ("meta-llama-Llama-3.3-70B-Instruct", "two calls"): "only supports single tool-calls",
    # It wants variables that no other has.
    **{("fireworks-ai-llama-3-firefunction-v2", shape): "'functions' is undefined" for shape in SHAPES},
}


def test_the_tables_name_all_templates(template_sources: dict[str, str]) -> None:
    assert sorted(template_sources) == sorted(ALL)


def test_three_of_four_templates_with_tools_are_learnt() -> None:
    assert len(LEARNT) >= 0.75 * len((*LEARNT, *NAMED, *UNLEARNT))


@pytest.mark.parametrize("name", LEARNT)
def test_the_template_teaches_its_dialect(template_of: TemplateOf, name: str) -> None:
    dialect = template_of(name).dialect
    assert dialect.is_templated
    assert not dialect.is_generic


@pytest.mark.parametrize("name", [*UNLEARNT, *WITHOUT_TOOLS])
def test_other_templates_get_the_generic_dialect(template_of: TemplateOf, name: str) -> None:
    assert template_of(name).dialect.is_generic


def test_dialects_of_the_table(template_of: TemplateOf) -> None:
    granite = template_of("ibm-granite-granite-3.3-2B-Instruct").dialect
    assert (granite.trigger.kind, granite.mark) == ("token", '<|tool_call|>[{"name": "')
    assert template_of("GigaChat3-10B-A1.8B").dialect.is_generic


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ALL)
def test_the_template_renders_every_shape_or_says_why_not(template_of: TemplateOf, name: str, shape: str) -> None:
    messages, tools, wanted = SHAPES[shape]
    if (name, shape) in REFUSED:
        with pytest.raises(InvalidRequest, match=REFUSED[name, shape]):
            template_of(name).render(messages, tools=tools)
        return
    parts = template_of(name).render(messages, tools=tools)
    assert [part.is_template for part in parts] == [True]
    assert [text for text in wanted if text not in parts[0].text] == []


@pytest.mark.parametrize(
    "source",
    [
        "{{ tools }}{% set r = range(100000) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
        "{{ tools }}{% for a in range(3000) %}{{ messages[0].content }}{{ messages[-1].tool_calls }}{% endfor %}",
        "{{ tools }}{{ messages[-1].tool_calls | default([]) }}",
        "{{ tools }}{% for c in messages[-1].tool_calls %}{{ c.function.name }}{{ c.function.arguments }}{% endfor %}",
        "{{ tools }}{% for c in messages[-1].tool_calls %}{{ c.id }}({{ c.function.arguments | tojson }}){% endfor %}",
    ],
)
def test_a_template_that_teaches_nothing_gets_the_generic_dialect_soon(source: str) -> None:
    looks = iter(range(10**9))
    clock: list[int] = []

    def count() -> float:
        clock.append(next(looks))
        return clock[-1] / 1000

    template = ChatTemplate(source, bos_token="", eos_token="", control_tokens=(), clock=count)
    assert template.dialect.is_generic
    assert len(clock) < 10_000  # each a thousandth of a second
