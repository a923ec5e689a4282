"""Tools for a model whose chat template has none: a text in the system message says what they are and how to call them.

Calls and results then are plain text in messages of the roles that every template has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from appliance.chat.dialect import Dialect, JSONArguments

Message = dict[str, Any]

GENERIC = Dialect(
    opening="",
    before_name='<tool_call>\n{"name": "',
    after_name='", "arguments": ',
    arguments=JSONArguments(),
    after_arguments="}\n</tool_call>",
    between="\n",
    closing="",
    is_templated=False,
    is_generic=True,
)

PROMPT = """\
You can call tools. They are listed between <tools> and </tools>, one JSON object a line:
<tools>
{tools}
</tools>
To call one, write nothing but its name and its arguments as a JSON object that follows the tool's parameters, so:
<tool_call>
{{"name": "the tool's name", "arguments": {{"argument": "value"}}}}
</tool_call>
Write one such block for each call. The results come in the next message, between <tool_response> and </tool_response>.
Call a tool only where it helps; otherwise answer as usual."""


def generic_prompt(tools: Sequence[Mapping[str, Any]]) -> str:
    """What the model is told; ``tools`` as OpenAI's API has them."""
    return PROMPT.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))


def as_plain_text(messages: Sequence[Message], prompt: str, *, has_system: bool) -> list[Message]:
    """The messages with no roles but system, user and assistant: results are the user's, those that follow each other
    in one message, together with what the user says next. ``prompt`` comes first in the system message, or in the first
    one of the user where the template has none.
    """
    plain: list[Message] = []
    follows_result = False
    for message in messages:
        role, text = message["role"], message["content"]
        if role == "tool":
            text = f"<tool_response>\n{text}\n</tool_response>"
        if role in ("tool", "user") and follows_result:
            plain[-1]["content"] += f"\n{text}"
        else:
            plain.append({"role": "user" if role == "tool" else role, "content": text})
        follows_result = role == "tool"
    return _with_prompt(plain, prompt, has_system=has_system)


def _with_prompt(messages: list[Message], prompt: str, *, has_system: bool) -> list[Message]:
    if not prompt:
        return messages
    role = "system" if has_system else "user"
    for position, message in enumerate(messages):
        if message["role"] == role:
            first = {**message, "content": f"{prompt}\n\n{message['content']}"}
            return [*messages[:position], first, *messages[position + 1 :]]
    return [{"role": role, "content": prompt}, *messages]
