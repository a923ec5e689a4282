"""The wire types of ``POST /v1/chat/completions``.

Fields that are not here are accepted and ignored, as OpenAI does. A field that is here is honoured or refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from appliance.schemas.sampling import GenerationFields, MaxTokens, Text

MAX_MESSAGES = 4096
MAX_TOP_LOGPROBS = 20


class TextPart(BaseModel):
    model_config = ConfigDict(strict=True)

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart] | None = None
    # Templates print it as it is: nothing that could be a control token.
    name: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = None

    @model_validator(mode="after")
    def _has_content(self) -> Message:
        if self.content is None:
            raise ValueError("content is missing")
        return self

    @property
    def text(self) -> str:
        """The content as one text; parts stand on lines of their own."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]


class ChatRequest(GenerationFields):
    messages: Messages
    max_completion_tokens: MaxTokens = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=MAX_TOP_LOGPROBS)] = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None

    @field_validator("tools", "functions")
    @classmethod
    def _no_tools(cls, value: list[Any] | None) -> None:
        if value:
            raise ValueError("tools are not supported by this release")

    @field_validator("tool_choice")
    @classmethod
    def _no_tool_choice(cls, value: str | dict[str, Any] | None) -> str | None:
        if value not in (None, "none", "auto"):
            raise ValueError("tools are not supported by this release")
        return None

    @field_validator("response_format")
    @classmethod
    def _only_text(cls, value: dict[str, Any] | None) -> None:
        if value is not None and value.get("type") != "text":
            raise ValueError("only {'type': 'text'} is supported by this release")

    @model_validator(mode="after")
    def _top_logprobs_wants_logprobs(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs wants logprobs to be true")
        return self
