"""Brings a conversation with tools into the form that a model's chat template wants."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from appliance.chat.dialect import Dialect
from appliance.chat.generic import as_plain_text, generic_prompt
from appliance.chat.placeholders import Texts
from appliance.chat.tools import Tool
from appliance.errors import InvalidRequest

# Some templates want nine letters or digits; a client's own ids would only be noise to the model.
_CALL_ID = "call{:05d}"
# What in a tool's schema is prose or a value: templates show it and look no further into it.
_FREE = frozenset(["description", "title", "enum", "const", "default", "examples"])


def plain_messages(messages: Sequence[Mapping[str, Any]], texts: Texts) -> list[dict[str, Any]]:
    """Messages without calls."""
    return [{**message, "content": texts.take(str(message.get("content") or ""))} for message in messages]


def with_tools(
    dialect: Dialect, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool], texts: Texts, *, has_system: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The messages and the tools for the template.

    ``has_system`` says whether it takes a system message. Raises InvalidRequest if a call's arguments are no JSON
    object.
    """
    described = [_described(tool, texts) for tool in tools]
    prepared = _Calls(dialect, texts).prepare(messages)
    if dialect.is_generic:
        prompt = generic_prompt(described) if described else ""
        return as_plain_text(prepared, prompt, has_system=has_system), []
    return prepared, described


def for_template(arguments: dict[str, Any], way: Literal["object", "text", "texts"]) -> dict[str, Any] | str:
    """A call's arguments as a template wants them; see :class:`Dialect`."""
    if way == "text":
        return _json(arguments)
    if way == "object":
        return arguments
    return {key: value if isinstance(value, str) else _json(value) for key, value in arguments.items()}


class _Calls:
    def __init__(self, dialect: Dialect, texts: Texts) -> None:
        self._dialect = dialect
        self._texts = texts
        self._ids: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def prepare(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        prepared = plain_messages(messages, self._texts)
        for message in prepared:
            if message.get("tool_calls"):
                calls = [self._call(call) for call in message.pop("tool_calls")]
                if self._dialect.is_templated:
                    message["tool_calls"] = [self._templated(*call) for call in calls]
                else:
                    written = self._dialect.write(calls)
                    message["content"] = f"{message['content']}\n{written}" if message["content"] else written
            if message["role"] == "tool":
                given = str(message.get("tool_call_id") or "")
                name = str(message.get("name") or self._names.get(given, ""))
                self._texts.check(name)
                message |= {"tool_call_id": self._id(given), "name": name}
        return prepared

    def _call(self, call: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
        function = call["function"]
        name, given = str(function["name"]), str(call.get("id") or "")
        self._texts.check(name)
        self._names[given] = name
        return self._id(given), name, self._arguments(name, function.get("arguments") or "{}")

    def _arguments(self, name: str, text: str) -> dict[str, Any]:
        try:
            arguments = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(
                f"a call's arguments for the tool {name} are no JSON: {error}", param="messages"
            ) from None
        if not isinstance(arguments, dict):
            raise InvalidRequest(f"a call's arguments for the tool {name} are no JSON object", param="messages")
        return {key: self._value(value, key) for key, value in arguments.items()}

    def _value(self, value: Any, key: str = "") -> Any:
        self._texts.check(key)
        if isinstance(value, dict):
            return {key: self._value(part, key) for key, part in value.items()}
        if isinstance(value, list):
            return [self._value(part) for part in value]
        return self._texts.take(value) if isinstance(value, str) else value

    def _templated(self, call_id: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        written = for_template(arguments, self._dialect.arguments_as)
        return {"id": call_id, "type": "function", "function": {"name": name, "arguments": written}}

    def _id(self, given: str) -> str:
        return self._ids.setdefault(given, _CALL_ID.format(len(self._ids)))


def _described(tool: Tool, texts: Texts) -> dict[str, Any]:
    described: dict[str, Any] = _schema(tool.described(), texts, is_free=False)
    return described


def _schema(value: Any, texts: Texts, *, is_free: bool) -> Any:
    if isinstance(value, dict):
        for key in value:
            texts.check(key)
        return {
            key: _schema(part, texts, is_free=is_free or (key in _FREE and not isinstance(part, dict)))
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [_schema(part, texts, is_free=is_free) for part in value]
    if not isinstance(value, str):
        return value
    if is_free:
        return texts.take(value)
    texts.check(value)
    return value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
