"""The wire types of ``POST /v1/chat/completions``.

Fields that are not here are accepted and ignored, as OpenAI does. A field that is here is honoured or refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator, model_validator

from appliance.schemas.messages import Messages
from appliance.schemas.sampling import GenerationFields, MaxTokens
from appliance.schemas.tools import FunctionChoice, FunctionDefinition, Functions, ToolChoice, Tools

MAX_TOP_LOGPROBS = 20


class ChatRequest(GenerationFields):
    messages: Messages
    max_completion_tokens: MaxTokens = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=MAX_TOP_LOGPROBS)] = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Functions | None = None
    function_call: FunctionChoice | None = None

    @field_validator("tool_choice")
    @classmethod
    def _chooses_of_tools(cls, choice: ToolChoice | None, info: ValidationInfo) -> ToolChoice | None:
        if choice is not None and "tools" in info.data:
            choice.check([tool.function for tool in info.data["tools"] or ()])
        return choice

    @field_validator("functions")
    @classmethod
    def _either_names(cls, functions: Functions | None, info: ValidationInfo) -> Functions | None:
        if functions and info.data.get("tools"):
            raise ValueError("want either tools or functions, which is their older name")
        return functions

    @field_validator("function_call")
    @classmethod
    def _chooses_of_functions(cls, choice: ToolChoice | None, info: ValidationInfo) -> ToolChoice | None:
        if choice is not None and "functions" in info.data:
            choice.check(info.data["functions"])
        return choice

    @model_validator(mode="after")
    def _top_logprobs_wants_logprobs(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs wants logprobs to be true")
        return self

    @property
    def offered(self) -> Sequence[FunctionDefinition]:
        """What the model may call unless ``choice`` says less."""
        return self.functions or [tool.function for tool in self.tools or ()]

    @property
    def choice(self) -> ToolChoice:
        return (self.function_call if self.functions else self.tool_choice) or ToolChoice()

    @property
    def may_call(self) -> bool:
        """Not where one of both fields says that nothing is, whichever of them it was meant for."""
        choices = [choice.type for choice in (self.tool_choice, self.function_call) if choice is not None]
        return bool(self.offered) and "none" not in choices
