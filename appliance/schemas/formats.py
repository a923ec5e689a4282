"""The form that a text must have: ``response_format``, and the extensions ``grammar`` and ``regex``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

# As JSON.
MAX_SCHEMA_BYTES = 256 * 1024
MAX_SCHEMA_DEPTH = 64
MAX_GRAMMAR_CHARS = 64 * 1024


def levels(value: Any) -> Iterator[list[Any]]:
    """What is in a value from JSON, level by level: its members, then theirs."""
    members = [value]
    while members := [
        member
        for one in members
        for member in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
    ]:
        yield members


def _is_sound(schema: dict[str, Any]) -> dict[str, Any]:
    for depth, members in enumerate(levels(schema), 1):
        if depth == MAX_SCHEMA_DEPTH and any(isinstance(member, dict | list) for member in members):
            raise ValueError(f"is nested deeper than {MAX_SCHEMA_DEPTH} levels")
        # Python's JSON reader takes NaN for a number.
        if any(isinstance(member, float) and not math.isfinite(member) for member in members):
            raise ValueError("holds a number that JSON can't write")
    try:
        size = len(orjson.dumps(schema))
    except TypeError as error:  # half a character, or an integer of more than 64 bits
        raise ValueError(f"can't be written as JSON: {error}") from None
    if size > MAX_SCHEMA_BYTES:
        raise ValueError(f"takes {size} bytes of JSON; at most {MAX_SCHEMA_BYTES} are allowed")
    return schema


JSONSchema = Annotated[dict[str, Any], AfterValidator(_is_sound)]


class NamedSchema(BaseModel):
    """``strict`` changes nothing: a schema is always kept."""

    model_config = ConfigDict(strict=True)

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    strict: bool | None = None
    # pydantic's models have a method named schema.
    definition: Annotated[JSONSchema, Field(alias="schema")]


class ResponseFormat(BaseModel):
    model_config = ConfigDict(strict=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("want json_schema with the type 'json_schema', and with no other")
        return self
