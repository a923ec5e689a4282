"""Messages as chat templates know them."""

from __future__ import annotations

from typing import Any

from appliance.schemas.chat import ChatRequest
from appliance.service.conversation import template_messages


def rendered(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    return template_messages(ChatRequest.model_validate({"messages": list(messages)}).messages)


def call(call_id: str, name: str, arguments: str = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_calls_and_their_answers_go_to_the_template_with_names_and_ids() -> None:
    assert rendered(
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [call("1", "f", '{"a": 1}'), call("2", "g")]},
        {"role": "tool", "tool_call_id": "2", "content": [{"type": "text", "text": "y"}]},
        {"role": "tool", "tool_call_id": "1", "content": "z", "name": "h"},
    ) == [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [call("1", "f", '{"a": 1}'), call("2", "g")]},
        {"role": "tool", "content": "y", "tool_call_id": "2", "name": "g"},
        {"role": "tool", "content": "z", "tool_call_id": "1", "name": "f"},
    ]


def test_text_beside_calls_is_kept_and_an_empty_one_is_none() -> None:
    said = rendered({"role": "assistant", "content": "so:", "tool_calls": [call("1", "f")]})
    silent = rendered({"role": "assistant", "content": "", "tool_calls": [call("1", "f")]})
    assert (said[0]["content"], silent[0]["content"]) == ("so:", None)
    assert rendered({"role": "assistant", "content": "", "tool_calls": []}) == [{"role": "assistant", "content": ""}]


def test_the_older_form_becomes_the_newer_one() -> None:
    function = {"name": "f", "arguments": "{}"}
    assert rendered(
        {"role": "developer", "content": "d"},
        {"role": "assistant", "function_call": function},
        {"role": "function", "name": "f", "content": "1"},
        {"role": "assistant", "content": None, "function_call": function},
        {"role": "function", "name": "f", "content": "2"},
    ) == [
        {"role": "system", "content": "d"},
        {"role": "assistant", "content": None, "tool_calls": [call("call_1", "f")]},
        {"role": "tool", "content": "1", "name": "f", "tool_call_id": "call_1"},
        {"role": "assistant", "content": None, "tool_calls": [call("call_3", "f")]},
        {"role": "tool", "content": "2", "name": "f", "tool_call_id": "call_3"},
    ]
