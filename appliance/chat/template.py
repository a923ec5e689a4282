"""Renders a conversation to prompt parts with the model's own chat template.

What a client wrote must never become a control token. The conversation is rendered twice: as it is, and with a
placeholder for each text. When no text spells a control token and both renderings hold the same control tokens, the
first one is the prompt, whole, as the model's makers would tokenize it. Otherwise the second one is cut at the
placeholders, and the texts stand between the cuts as parts in which no control token is recognised.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import Any

from appliance.chat.conversation import plain_messages, with_tools
from appliance.chat.dialect import Dialect
from appliance.chat.generic import GENERIC
from appliance.chat.learning import learn, shows_tools
from appliance.chat.named_dialects import NAMED_DIALECTS, REASONING
from appliance.chat.placeholders import AsTheyAre, Placeholders, Texts
from appliance.chat.sandbox import SandboxedTemplate
from appliance.chat.tools import Tool
from appliance.engine.messages import PromptPart
from appliance.errors import InvalidRequest

Message = Mapping[str, Any]


class ChatTemplate:
    """A model's chat template, compiled."""

    def __init__(
        self,
        source: str,
        *,
        bos_token: str,
        eos_token: str,
        control_tokens: Sequence[str],
        now: Callable[[], datetime] = datetime.now,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """``clock`` limits how long it computes, which on a busy machine isn't how long it takes.

        Raises ConfigError if the template can't be compiled.
        """
        self._source = source
        self._bos_token = bos_token
        self._eos_token = eos_token
        self._control = re.compile("|".join(map(re.escape, sorted(control_tokens, key=len, reverse=True))) or r"(?!)")
        self._template = SandboxedTemplate(source, now=now, clock=clock)

    def render(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), variables: Mapping[str, Any] | None = None
    ) -> tuple[PromptPart, ...]:
        """The prompt that asks for the assistant's next message.

        Raises:
            InvalidRequest: the template refuses the conversation, or passes its limits; or a text in it spells a
                control token where it can't be told from the template's own.
        """
        with_calls = bool(tools) or any(m["role"] == "tool" or m.get("tool_calls") for m in messages)
        dialect = self.dialect if with_calls else None
        placeholders = Placeholders(self._control)
        marked = self._write(dialect, messages, tools, placeholders, variables)
        if not placeholders.has_control:
            whole = self._write(dialect, messages, tools, AsTheyAre(), variables)
            if self._control.findall(whole) == self._control.findall(marked):
                return (PromptPart(whole, True),)
        return placeholders.cut(marked)

    @cached_property
    def dialect(self) -> Dialect:
        """How the model writes tool calls: named, or learnt from the template, or else the generic one."""
        control_tokens = tuple(dict.fromkeys(self._control.findall(self._source + self._prompt + self._thought)))
        named = [named.dialect for named in NAMED_DIALECTS if all(mark in self._source for mark in named.marks)]
        if named:
            dialect = named[0]
        else:
            learnt = learn(self._probe, control_tokens) if shows_tools(self._probe) else None
            # One that the prompt begins itself says nothing of where the answer's text ends.
            is_begun = learnt is not None and self._prompt.endswith(learnt.trigger.text)
            dialect = GENERIC if learnt is None or is_begun else learnt
        used = tuple(dict.fromkeys(self._control.findall(dialect.fixed_text)))
        reasoning = next((marks for marks in REASONING if all(mark in self._source for mark in marks)), None)
        prompt = self._prompt
        return replace(
            dialect,
            control_tokens=used,
            free_tokens=tuple(token for token in control_tokens if token not in (*used, self._eos_token)),
            reasoning=reasoning,
            is_reasoning_open=reasoning is not None and prompt.rfind(reasoning[0]) > prompt.rfind(reasoning[1]),
        )

    @cached_property
    def _has_system(self) -> bool:
        """Whether the template shows the model a system message."""
        probe = [{"role": "system", "content": "a system's own words"}, {"role": "user", "content": "hi"}]
        try:
            return "a system's own words" in self._probe(probe, ())
        except InvalidRequest:
            return False

    @cached_property
    def _prompt(self) -> str:
        """What the template writes before an answer; empty if it refuses one message."""
        try:
            return self._run([{"role": "user", "content": "hi"}], [])
        except InvalidRequest:
            return ""

    @cached_property
    def _thought(self) -> str:
        """What it writes of an answer with reasoning; empty if it refuses that."""
        answer = {"role": "assistant", "content": "ho", "reasoning_content": "hm"}
        try:
            return self._probe([{"role": "user", "content": "hi"}, answer], ())
        except InvalidRequest:
            return ""

    def _probe(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        return self._run(messages, [tool.described() for tool in tools], adds_prompt=False)

    def _write(
        self,
        dialect: Dialect | None,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        texts: Texts,
        variables: Mapping[str, Any] | None,
    ) -> str:
        """The whole prompt, with what ``texts`` make of all that a client wrote."""
        if dialect is None:
            return self._run(plain_messages(messages, texts), [], variables)
        has_system = not dialect.is_generic or self._has_system
        return self._run(*with_tools(dialect, messages, tools, texts, has_system=has_system), variables)

    @cached_property
    def _no_tools(self) -> Sequence[Mapping[str, Any]] | None:
        """None, as most templates want it, or an empty list for those that look into it all the same."""
        try:
            self._template.render(self._variables([{"role": "user", "content": "hi"}], None))
        except InvalidRequest:
            return ()
        return None

    def _run(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any] | None = None,
        *,
        adds_prompt: bool = True,
    ) -> str:
        given = self._variables(messages, tools or self._no_tools)
        return self._template.render({**(variables or {}), **given, "add_generation_prompt": adds_prompt})

    def _variables(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
        return {
            "tools": tools,
            "messages": messages,
            "add_generation_prompt": True,
            "bos_token": self._bos_token,
            "eos_token": self._eos_token,
        }
