"""The last look at a finished text that was written by a JSON schema."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import jsonschema
from jsonschema import validators
from referencing import Registry

from appliance.chat.json_schema import dialect_of

# The last look follows references at every level of a value, in each member of an anyOf: twice as many a level deeper.
MAX_FOLLOWED = 10_000


class TooIntricate(Exception):
    """A value would take too long to look at."""


def violation(schema: Mapping[str, Any], value: Any) -> str | None:
    """What of a value, read from JSON text, doesn't meet a schema that was found to be enforceable; None: all does.

    Raises TooIntricate.
    """
    kind = _last_look(dialect_of(schema))
    n_followed = 0

    def followed(validator: Any, reference: Any, instance: Any, node: Mapping[str, Any]) -> Iterator[Any]:
        nonlocal n_followed
        n_followed += 1
        if n_followed > MAX_FOLLOWED:
            raise TooIntricate
        yield from kind.VALIDATORS["$ref"](validator, reference, instance, node)

    counting = validators.extend(kind, {"$ref": followed})  # type: ignore[no-untyped-call]
    error = next(counting(schema, registry=Registry()).iter_errors(value), None)
    return None if error is None else f"{error.message[:200]} (at {error.json_path[:200]})"


# Patterns are not looked at again: Python's re may take for ever over one, while the grammar took no longer than the
# text is. Neither are formats, which jsonschema doesn't check unless it is told to.
def _pass_over(validator: Any, value: Any, instance: Any, schema: Mapping[str, Any]) -> None:
    return None


def _additional_properties(validator: Any, value: Any, instance: Any, schema: Mapping[str, Any]) -> Any:
    if "patternProperties" in schema:  # which of the names are additional, only patterns can tell
        return None
    return jsonschema.Draft202012Validator.VALIDATORS["additionalProperties"](validator, value, instance, schema)


def _multiple_of(validator: Any, value: Any, instance: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    """As decimals: 8.7 is a multiple of 0.1, which jsonschema's doubles deny."""
    if validator.is_type(instance, "number") and math.isfinite(instance):
        if (Fraction(str(instance)) / Fraction(str(value))).denominator != 1:
            yield jsonschema.ValidationError(f"{instance} is not a multiple of {value}")


@functools.cache
def _last_look(dialect: Any) -> Any:
    own = {
        "pattern": _pass_over,
        "patternProperties": _pass_over,
        "additionalProperties": _additional_properties,
        "multipleOf": _multiple_of,
    }
    return validators.extend(dialect, own)  # type: ignore[no-untyped-call]
