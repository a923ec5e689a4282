"""From the messages of a request to the prompt that the model's chat template makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from appliance.chat.tools import Tool
from appliance.engine.messages import PromptPart
from appliance.errors import InvalidRequest
from appliance.schemas.messages import Message
from appliance.service.catalog import ServedModel

# A template knows OpenAI's older name of the role only.
_ROLES = {"developer": "system", "function": "tool"}


def render(model: ServedModel, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> tuple[PromptPart, ...]:
    """The prompt parts of a conversation. Raises InvalidRequest if the model has no template, or it refuses."""
    if model.template is None:
        raise InvalidRequest(f"the model {model.name} has no chat template; use /v1/completions", param="messages")
    return model.template.render(template_messages(messages), tools=tools)


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """As templates know them: calls of the older form are tool calls, and a tool message has its function's name."""
    rendered = []
    names: dict[str, str] = {}  # by the calls' ids
    ids: dict[str, str] = {}  # of the latest call of each name in the older form
    for number, message in enumerate(messages):
        one: dict[str, Any] = {"role": _ROLES.get(message.role, message.role), "content": message.text}
        if message.name is not None:
            one["name"] = message.name
        calls = [(call.id, call.function) for call in message.tool_calls or ()]
        if message.function_call is not None:
            calls = [(f"call_{number}", message.function_call)]
            ids[message.function_call.name] = f"call_{number}"
        if calls:
            names.update((call_id, function.name) for call_id, function in calls)
            one["content"] = message.text or None
            one["tool_calls"] = [
                {"id": call_id, "type": "function", "function": function.model_dump()} for call_id, function in calls
            ]
        if message.tool_call_id is not None:
            one |= {"tool_call_id": message.tool_call_id, "name": names[message.tool_call_id]}
        elif message.role == "function":
            one["tool_call_id"] = ids[message.name or ""]
        rendered.append(one)
    return rendered
