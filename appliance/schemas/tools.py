"""The functions that a model may call, and which of them it may or must."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from appliance.schemas.formats import JSONSchema
from appliance.schemas.sampling import Text

MAX_TOOLS = 128
# Of all definitions together, as JSON.
MAX_TOOLS_BYTES = 512 * 1024

# Templates print it as it is: nothing that could be a control token. OpenAI's form, with letters of any script.
ToolName = Annotated[Text, Field(pattern=r"^[\w-]{1,64}$")]


class FunctionDefinition(BaseModel):
    """Left out, ``parameters`` says that the function takes none. With ``strict`` they are kept to the letter, or the
    request is refused; without, what can't be enforced of them is passed over.
    """

    model_config = ConfigDict(strict=True)

    name: ToolName
    description: Text | None = None
    parameters: JSONSchema | None = None
    strict: bool | None = None


class FunctionTool(BaseModel):
    model_config = ConfigDict(strict=True)

    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(BaseModel):
    model_config = ConfigDict(strict=True)

    name: ToolName


class NamedTool(BaseModel):
    model_config = ConfigDict(strict=True)

    type: Literal["function"]
    function: FunctionName


class AllowedTools(BaseModel):
    """Those of the tools that may be called: all are in the prompt, which stays the same for prefix reuse."""

    model_config = ConfigDict(strict=True)

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MAX_TOOLS)]


class ToolChoice(BaseModel):
    """On the wire a text, for the types without fields, or an object."""

    model_config = ConfigDict(strict=True)

    type: Literal["auto", "none", "required", "function", "allowed_tools"] = "auto"
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None

    @model_validator(mode="before")
    @classmethod
    def _text_is_a_type(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _has_what_it_names(self) -> ToolChoice:
        for name in ("function", "allowed_tools"):
            if (self.type == name) != (getattr(self, name) is not None):
                raise ValueError(f"want {name} with the type {name!r}, and with no other")
        return self

    @property
    def must_call(self) -> bool:
        return self.type in ("required", "function") or (
            self.allowed_tools is not None and self.allowed_tools.mode == "required"
        )

    @property
    def names(self) -> list[str] | None:
        """The tools that may be called; None: all."""
        if self.function is not None:
            return [self.function.name]
        return [tool.function.name for tool in self.allowed_tools.tools] if self.allowed_tools is not None else None

    def check(self, functions: Sequence[FunctionDefinition] | None) -> None:
        """Raises ValueError if it can't be had with these."""
        known = [function.name for function in functions or ()]
        if self.type in ("required", "function", "allowed_tools") and not known:
            raise ValueError("there is nothing to call: give functions too")
        for name in self.names or ():
            if name not in known:
                raise ValueError(f"there is no function {name!r}; there are: {', '.join(known)}")


def _sound(functions: Sequence[FunctionDefinition]) -> None:
    names = [function.name for function in functions]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two functions have the name {name!r}")
    size = len(orjson.dumps([function.model_dump() for function in functions]))
    if size > MAX_TOOLS_BYTES:
        raise ValueError(f"the definitions take {size} bytes of JSON; at most {MAX_TOOLS_BYTES} are allowed")


def _sound_functions(functions: list[FunctionDefinition]) -> list[FunctionDefinition]:
    _sound(functions)
    return functions


def _sound_tools(tools: list[FunctionTool]) -> list[FunctionTool]:
    _sound([tool.function for tool in tools])
    return tools


def _with_type(value: Any) -> Any:
    return {"type": "function", "function": value} if isinstance(value, dict) else value


Tools = Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS), AfterValidator(_sound_tools)]
Functions = Annotated[list[FunctionDefinition], Field(max_length=MAX_TOOLS), AfterValidator(_sound_functions)]
# The older field names a function without its type.
FunctionChoice = Annotated[ToolChoice, BeforeValidator(_with_type)]
