"""The last look at a finished text that was written by a JSON schema."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import jsonschema
import orjson
from jsonschema import validators
from referencing import Registry

from appliance.chat.json_schema import dialect_of

# What a look may cost: it compares each member of a value with each of an anyOf or an enum, and by references there may
# be twice as much to do a level deeper. A million takes about a second.
MAX_COST = 1_000_000

_Look = Callable[[Any, Any, Any, Mapping[str, Any]], Iterator[Any] | None]


class TooIntricate(Exception):
    """A value would take too long to look at."""


def violation(schema: Mapping[str, Any], value: Any) -> str | None:
    """What of a value, read from JSON text, doesn't meet a schema that was found to be enforceable; None: all does.

    Raises TooIntricate.
    """
    kind = _last_look(dialect_of(schema))
    left = MAX_COST
    costs: dict[int, int] = {}  # by the identity of what a keyword wants, which lives as long as the schema

    def bounded(word: str, look: _Look) -> _Look:
        def looked(validator: Any, wanted: Any, instance: Any, node: Mapping[str, Any]) -> Iterator[Any] | None:
            nonlocal left
            key = id(wanted)
            if key not in costs:
                costs[key] = _cost(word, wanted)
            left -= costs[key]
            if left < 0:
                raise TooIntricate
            return look(validator, wanted, instance, node)

        return looked

    words = {word: bounded(word, look) for word, look in kind.VALIDATORS.items()}
    validator = validators.extend(kind, words)(schema, registry=Registry())  # type: ignore[no-untyped-call]
    error = next(validator.iter_errors(value), None)
    return None if error is None else f"{error.message[:200]} (at {error.json_path[:200]})"


def _cost(word: str, wanted: Any) -> int:
    if word == "$ref":
        return 100
    if word in ("const", "enum"):  # members are compared to their depth
        return 10 + len(orjson.dumps(wanted)) // 4
    return 10 + (len(wanted) if isinstance(wanted, list | dict) else 0)


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
