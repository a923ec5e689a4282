"""What tests of tools over HTTP share."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from tests import fake_models

CITY = {"type": "string", "enum": ["Wien", "Köln"]}
WEATHER = {
    "name": "weather",
    "description": 'Says "sunny" or \\ "rainy"',
    "parameters": {"type": "object", "properties": {"city": CITY}, "required": ["city"], "additionalProperties": False},
}
CLOCK = {"name": "what_is_the_time"}
TOOLS = [{"type": "function", "function": function} for function in (WEATHER, CLOCK)]
NAMED = {"type": "function", "function": {"name": "weather"}}
CALL_ID = r"call_[0-9a-f]{24}"
# A prompt of all that there is: the fake model goes on in the alphabet behind the last letter.
TEMPLATE = """{% if tools %}{{ tools | tojson }}
{% endif %}{% for message in messages %}{{ message.content or "" }}{% for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}
{% endfor %}{{ messages[-1].content }}"""
HEADER = msgspec.structs.replace(fake_models.HEADER, chat_template=TEMPLATE)


def put_together(chunks: list[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    """The choice that a stream's frames make up, as a client would add them."""
    message: dict[str, Any] = {"role": None, "content": ""}
    calls: list[dict[str, Any]] = []
    reason = None
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["index"] != index:
                continue
            assert reason is None, "nothing follows the reason"
            reason = choice["finish_reason"]
            delta = choice["delta"]
            message["role"] = delta.get("role", message["role"])
            message["content"] += delta.get("content", "")
            for part in delta.get("tool_calls", ()):
                if "id" in part:
                    assert part["index"] == len(calls), "calls begin in their order"
                    assert set(part) == {"index", "id", "type", "function"}
                    assert part["function"]["arguments"] == ""
                    calls.append({"id": part["id"], "type": part["type"], "function": dict(part["function"])})
                else:
                    assert part.keys() == {"index", "function"}
                    assert part["function"].keys() == {"arguments"}
                    calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
            if function := delta.get("function_call"):
                held = message.setdefault("function_call", {"name": function.get("name"), "arguments": ""})
                held["arguments"] += function["arguments"]
    if calls:
        message |= {"content": message["content"] or None, "tool_calls": calls}
    if "function_call" in message:
        message["content"] = message["content"] or None
    return {"index": index, "message": {**message, "refusal": None}, "logprobs": None, "finish_reason": reason}


def without_ids(choice: dict[str, Any]) -> dict[str, Any]:
    return json.loads(re.sub(CALL_ID, "ID", json.dumps(choice)))  # type: ignore[no-any-return]
