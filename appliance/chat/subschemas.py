"""The schemas in a JSON schema, and whether JSON with an end can meet them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

# Rounds of the look for recursion without an end; a chain of references may need as many as it is long.
_MAX_ROUNDS = 100
_MAPS = ("$defs", "definitions", "properties", "patternProperties")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SINGLES = ("additionalItems", "additionalProperties", "items")


def collect(node: Any, path: str, nodes: dict[str, Any], heights: dict[str, int]) -> int:
    """Puts all schemas in one, and how many levels each has, by their JSON pointers; gives its own levels."""
    nodes[path] = node
    inside = 0
    if isinstance(node, dict):
        for step, member in _members(node):
            inside = max(inside, collect(member, f"{path}/{step}", nodes, heights))
    heights[path] = inside + 1
    return inside + 1


def _members(node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for word in _MAPS:
        for name, member in node.get(word, {}).items():
            yield f"{word}/{_escaped(name)}", member
    for word in _LISTS:
        if isinstance(members := node.get(word), list):
            for number, member in enumerate(members):
                yield f"{word}/{number}", member
    for word in _SINGLES:
        if isinstance(member := node.get(word), dict | bool):
            yield word, member


def _escaped(name: str) -> str:
    """As a step of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def subschemas(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Itself, and all schemas in it that are objects."""
    nodes: dict[str, Any] = {}
    collect(schema, "", nodes, {})
    return [node for node in nodes.values() if isinstance(node, dict)]


def is_endless(nodes: Mapping[str, Any]) -> bool:
    """Whether no JSON with an end meets the schema, as far as its references to itself tell."""
    found: set[str] = set()
    for _ in range(_MAX_ROUNDS):
        n_before = len(found)
        # From the innermost outwards.
        for path in reversed(list(nodes)):
            if path not in found and _ends(path, nodes[path], nodes, found):
                found.add(path)
        if "" in found:
            return False
        if len(found) == n_before:
            return True
    return False


def _ends(path: str, node: Any, nodes: Mapping[str, Any], found: set[str]) -> bool:
    if not isinstance(node, dict) or "const" in node or "enum" in node:
        return True
    if "$ref" in node and (target := unquote(node["$ref"][1:])) in nodes and target not in found:
        return False
    if not all(f"{path}/allOf/{number}" in found for number in range(len(node.get("allOf", ())))):
        return False
    for word in ("anyOf", "oneOf"):
        if word in node and not any(f"{path}/{word}/{number}" in found for number in range(len(node[word]))):
            return False
    if "type" not in node:
        return True
    kinds = [node["type"]] if isinstance(node["type"], str) else node["type"]
    return any(_kind_ends(kind, path, node, nodes, found) for kind in kinds)


def _kind_ends(kind: str, path: str, node: Mapping[str, Any], nodes: Mapping[str, Any], found: set[str]) -> bool:
    def can(place: str) -> bool:
        return place not in nodes or place in found

    if kind == "object":
        return all(can(f"{path}/properties/{_escaped(name)}") for name in node.get("required", ()))
    if kind == "array":
        return all(
            can(f"{path}/prefixItems/{number}")
            and can(f"{path}/items/{number}")
            and (f"{path}/prefixItems/{number}" in nodes or can(f"{path}/items"))
            for number in range(min(int(node.get("minItems", 0)), 1024))
        )
    return True
