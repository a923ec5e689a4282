"""The wire types of ``POST /v1/completions``, ``/v1/tokenize`` and ``/v1/detokenize``."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from appliance.schemas.messages import Messages
from appliance.schemas.sampling import GenerationFields, Text
from appliance.schemas.tools import Tools

MAX_PROMPTS = 64
# OpenAI's default for this older endpoint.
DEFAULT_MAX_TOKENS = 16

Token = Annotated[int, Field(ge=0, lt=1 << 31)]
Tokens = Annotated[list[Token], Field(min_length=1)]
Prompt = str | Tokens


class CompletionRequest(GenerationFields):
    prompt: (
        Text
        | Tokens
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    echo: bool = False
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    suffix: str | None = None
    best_of: int | None = None

    @field_validator("suffix")
    @classmethod
    def _no_suffix(cls, value: str | None) -> None:
        if value:
            raise ValueError("text can't be filled in between: suffix is not supported")

    @model_validator(mode="after")
    def _combinations(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of other than n is not supported")
        if self.echo and self.logprobs is not None:
            raise ValueError("echo with logprobs is not supported by this release")
        if self.echo and self.wants_json:
            raise ValueError("echo with response_format is not supported: a prompt and JSON are no JSON")
        return self

    @property
    def prompts(self) -> list[Prompt]:
        """Each prompt, as text or as tokens."""
        if isinstance(self.prompt, list) and not isinstance(self.prompt[0], int):
            return list(self.prompt)
        return [self.prompt]


class TokenizeRequest(BaseModel):
    """A text, in which control tokens are recognised as in ``/v1/completions``, or a conversation with its tools."""

    model_config = ConfigDict(strict=True)

    model: Text | None = None
    prompt: Text | None = None
    messages: Messages | None = None
    tools: Tools | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("want either prompt or messages")
        if self.tools and self.messages is None:
            raise ValueError("tools go with messages")
        return self


class DetokenizeRequest(BaseModel):
    model_config = ConfigDict(strict=True)

    tokens: list[Token]
    model: Text | None = None
