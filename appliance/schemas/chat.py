"""The wire types of ``POST /v1/chat/completions``.

Fields that are not here are accepted and ignored, as OpenAI does. A field that is here is honoured or refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MAX_N = 16
MAX_STOP = 16
MAX_TOP_LOGPROBS = 20
# OpenAI's range of a bias; -100 bans a token.
MAX_BIAS = 100.0


class TextPart(BaseModel):
    model_config = ConfigDict(strict=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None

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


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool = False


class SamplingFields(BaseModel):
    """OpenAI's sampling fields and llama.cpp's; None is the same as left out."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=0)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    typical_p: Annotated[float | None, Field(gt=0, le=1)] = None
    repeat_penalty: Annotated[float | None, Field(gt=0, le=10)] = None
    repeat_last_n: Annotated[int | None, Field(ge=-1, le=1 << 20)] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    dry_multiplier: Annotated[float | None, Field(ge=0, le=100)] = None
    dry_base: Annotated[float | None, Field(ge=1, le=100)] = None
    dry_allowed_length: Annotated[int | None, Field(ge=0, le=1 << 20)] = None
    dry_penalty_last_n: Annotated[int | None, Field(ge=-1, le=1 << 20)] = None
    dry_sequence_breakers: Annotated[list[str] | None, Field(max_length=64)] = None
    xtc_probability: Annotated[float | None, Field(ge=0, le=1)] = None
    xtc_threshold: Annotated[float | None, Field(ge=0, le=1)] = None
    mirostat: Annotated[int | None, Field(ge=0, le=2)] = None
    mirostat_tau: Annotated[float | None, Field(gt=0, le=100)] = None
    mirostat_eta: Annotated[float | None, Field(gt=0, le=1)] = None
    logit_bias: dict[str, Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]] | None = None
    seed: Annotated[int | None, Field(ge=-(1 << 63), lt=1 << 63)] = None

    @field_validator("logit_bias")
    @classmethod
    def _keys_are_token_ids(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        for key in bias or {}:
            if not key.isascii() or not key.isdecimal():
                raise ValueError(f"{key!r} is not a token id")
        return bias


class ChatRequest(SamplingFields):
    messages: Annotated[list[Message], Field(min_length=1)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    n: Annotated[int | None, Field(ge=1, le=MAX_N)] = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOP)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=MAX_TOP_LOGPROBS)] = None
    ignore_eos: bool = False
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
