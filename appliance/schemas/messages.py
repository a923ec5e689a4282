"""The messages of a conversation, on the wire of ``/v1/chat/completions`` and ``/v1/tokenize``."""

from __future__ import annotations

from typing import Annotated, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from appliance.schemas.formats import levels
from appliance.schemas.sampling import Text
from appliance.schemas.tools import MAX_TOOLS, ToolName

MAX_MESSAGES = 4096
# Templates go into them by recursion.
MAX_ARGUMENTS_DEPTH = 128

# Templates print names and ids as they are: nothing that could be a control token.
CallId = Annotated[Text, Field(pattern=r"^[\w.:/-]{1,128}$")]


class TextPart(BaseModel):
    model_config = ConfigDict(strict=True)

    type: Literal["text"]
    text: Text


def _is_an_object(text: str) -> str:
    """Some clients send nothing for a call without arguments."""
    if not text.strip():
        return "{}"
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("want a JSON object")
    if any(depth > MAX_ARGUMENTS_DEPTH for depth, _ in enumerate(levels(value), 1)):
        raise ValueError(f"is nested deeper than {MAX_ARGUMENTS_DEPTH} levels")
    return text


class CalledFunction(BaseModel):
    """``arguments`` is JSON text."""

    model_config = ConfigDict(strict=True)

    name: ToolName
    arguments: Annotated[Text, AfterValidator(_is_an_object)]


class ToolCall(BaseModel):
    model_config = ConfigDict(strict=True)

    id: CallId
    type: Literal["function"]
    function: CalledFunction


class Message(BaseModel):
    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[TextPart] | None = None
    name: Annotated[Text | None, Field(pattern=r"^[\w.-]{1,64}$")] = None
    tool_calls: Annotated[list[ToolCall] | None, Field(max_length=MAX_TOOLS)] = None
    tool_call_id: CallId | None = None
    function_call: CalledFunction | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Message:
        has_calls = bool(self.tool_calls) or self.function_call is not None
        if has_calls and self.role != "assistant":
            raise ValueError("only an assistant message may hold calls")
        if self.tool_calls and self.function_call is not None:
            raise ValueError("want either tool_calls or function_call")
        if self.content is None and not has_calls:
            raise ValueError("content is missing" + (", and so are tool_calls" if self.role == "assistant" else ""))
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise ValueError("want tool_call_id with the role 'tool', and with no other")
        if self.role == "function" and self.name is None:
            raise ValueError("want the name of the function that was called")
        return self

    @property
    def text(self) -> str:
        """The content as one text; parts stand on lines of their own."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


def _answers_follow_their_calls(messages: list[Message]) -> list[Message]:
    ids: set[str] = set()
    names: set[str] = set()
    for number, message in enumerate(messages):
        ids.update(call.id for call in message.tool_calls or ())
        if message.function_call is not None:
            names.add(message.function_call.name)
        if message.tool_call_id is not None and message.tool_call_id not in ids:
            raise ValueError(f"message {number} answers the call {message.tool_call_id!r}, which stands nowhere before")
        if message.role == "function" and message.name not in names:
            raise ValueError(f"message {number} answers a call of {message.name!r}, which stands nowhere before")
    return messages


Messages = Annotated[
    list[Message], Field(min_length=1, max_length=MAX_MESSAGES), AfterValidator(_answers_follow_their_calls)
]
