"""Parts of a JSON schema that stand alone, each with just what it refers to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import unquote

import orjson

from appliance.chat.subschemas import subschemas

_DEFINITIONS = ("$defs", "definitions")
# What makes a schema one of its own.
_NAMES = ("$schema", "$id", "id")
# A definition's word and name.
_Key = tuple[str, str]


class _LeadsOut(Exception):
    """There is a reference to what is no definition."""


class SchemaParts:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._dialect = {"$schema": root["$schema"]} if "$schema" in root else {}
        self._definitions: dict[_Key, Any] = {}
        for word in _DEFINITIONS:
            if isinstance(named := root.get(word), dict):
                self._definitions |= {(word, name): schema for name, schema in named.items()}
        self._referred: dict[_Key, list[_Key]] = {}

    def alone(self, schema: Any) -> dict[str, Any]:
        """A schema that stands in the root. A malformed one stays so."""
        own = schema if isinstance(schema, dict) else {}
        try:
            keys = self._all_referred(own)
        except (AttributeError, TypeError):
            return own
        except _LeadsOut:
            inside = _moved(own)
            return {**inside, **self._dialect, "$defs": {"root": self._moved_root}}
        needed: dict[str, dict[str, Any]] = {}
        for word, name in keys:
            needed.setdefault(word, {})[name] = self._definitions[word, name]
        return {**own, **self._dialect, **needed}

    @cached_property
    def _moved_root(self) -> dict[str, Any]:
        return _moved({word: value for word, value in self._root.items() if word not in _NAMES})

    def _all_referred(self, schema: dict[str, Any]) -> dict[_Key, None]:
        """The definitions that a schema needs. Raises _LeadsOut."""
        found: dict[_Key, None] = {}
        waiting = list(self._keys(schema))
        while waiting:
            if (key := waiting.pop()) in found:
                continue
            found[key] = None
            if key not in self._referred:
                self._referred[key] = list(self._keys(self._definitions[key]))
            waiting += self._referred[key]
        return found

    def _keys(self, schema: Any) -> Iterator[_Key]:
        for node in subschemas(schema) if isinstance(schema, dict) else ():
            reference = node.get("$ref")
            if not isinstance(reference, str):
                continue
            start, *steps = unquote(reference).split("/")
            if start == "#" and (not steps or steps[0] not in _DEFINITIONS):
                raise _LeadsOut
            if start != "#":  # by a name, which may stand in any of them
                yield from self._definitions
            elif len(steps) > 1 and (key := (steps[0], _unescaped(steps[1]))) in self._definitions:
                yield key


def _moved(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A copy whose references lead to a root that is a definition."""
    copy: dict[str, Any] = orjson.loads(orjson.dumps(schema))
    for node in subschemas(copy):
        reference = node.get("$ref")
        if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
            node["$ref"] = f"#/$defs/root{reference[1:]}"
    return copy


def _unescaped(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")
