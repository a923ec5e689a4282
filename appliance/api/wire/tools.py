"""Answers with tool calls in OpenAI's JSON, and with a function call in its older one."""

from __future__ import annotations

import secrets
from typing import Any

from appliance.chat.tools import CallArguments, CallBegun, CallEvent, Content
from appliance.service.tool_calls import Reading, ToolUse


def message(reading: Reading, use: ToolUse) -> dict[str, Any]:
    """The message of an answer that is not streamed."""
    whole: dict[str, Any] = {"role": "assistant", "content": reading.content, "refusal": None}
    if not reading.calls:
        return whole
    calls = [_function(call.name, call.arguments) for call in reading.calls]
    whole["content"] = reading.content or None
    if use.is_legacy:
        return {**whole, "function_call": calls[0]}
    return {**whole, "tool_calls": [{"id": _new_id(), "type": "function", "function": call} for call in calls]}


def delta(event: CallEvent, use: ToolUse) -> dict[str, Any]:
    """What an event of an answer adds to its message."""
    match event:
        case Content(text):
            return {"content": text}
        case CallBegun(index, name):
            first = _function(name, "")
            if use.is_legacy:
                return {"function_call": first}
            return {"tool_calls": [{"index": index, "id": _new_id(), "type": "function", "function": first}]}
        case CallArguments(index, text):
            if use.is_legacy:
                return {"function_call": {"arguments": text}}
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def _function(name: str, arguments: str) -> dict[str, str]:
    return {"name": name, "arguments": arguments}


def _new_id() -> str:
    return f"call_{secrets.token_hex(12)}"
