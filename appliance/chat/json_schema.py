"""Which JSON schemas can be kept to the letter.

llguidance makes a grammar of a schema. It refuses most of what it can't enforce, and what it would pass over is refused
here: keywords of other drafts, numbers that it rounds, patterns that mean something else in its syntax.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from decimal import Decimal
from functools import partial
from typing import Any
from urllib.parse import unquote

import jsonschema

from appliance.chat.subschemas import collect, is_endless

DIALECTS = {
    "http://json-schema.org/draft-04/schema": jsonschema.Draft4Validator,
    "http://json-schema.org/draft-06/schema": jsonschema.Draft6Validator,
    "http://json-schema.org/draft-07/schema": jsonschema.Draft7Validator,
    "https://json-schema.org/draft/2019-09/schema": jsonschema.Draft201909Validator,
    "https://json-schema.org/draft/2020-12/schema": jsonschema.Draft202012Validator,
}
FORMATS = ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")
# Doubles are exact up to here, and shortest decimals of so many digits are unique.
MAX_NUMBER = 1 << 53
MAX_DIGITS = 15
# A multiple is found by a machine with so many states.
MAX_MULTIPLE = 10_000
# What a text must meet at once: to find whether there is any takes sixteen times as long for two more, hours for 20.
MAX_MERGED = 8
# Each is compared with each.
MAX_PATTERN_PROPERTIES = 64
# llguidance goes into references by recursion: from some two thousand levels on it would take the process with it.
MAX_LEVELS = 1000

_UNENFORCED = frozenset(
    "$dynamicAnchor $dynamicRef $recursiveAnchor $recursiveRef contains dependencies dependentRequired dependentSchemas"
    " disallow divisibleBy else extends if maxContains minContains not propertyNames then unevaluatedItems"
    " unevaluatedProperties uniqueItems x-guidance".split()
)
_TEXT_WORDS: tuple[Set[str], ...] = ({"pattern"}, {"format"}, {"minLength", "maxLength"})
_MERGED = {"$ref", "anyOf", "oneOf"}
_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_NUMBERS = ("const", "enum", "exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum")
_PATTERN_TOKEN = re.compile(r"\\.|\[\^?|\]|&&|--|~~|.", re.DOTALL)
# What the grammar has no spelling for: with \u0000, all other characters would have a second one.
_CONTROL = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")


class Unenforceable(Exception):
    """Says what of a schema can't be kept."""


def check(schema: Mapping[str, Any]) -> None:
    """Raises Unenforceable for a schema that is malformed, or that llguidance would not keep to the letter."""
    dialect = dialect_of(schema)
    try:
        # Without formats: Python's re has no say on patterns, some of which take it very long.
        dialect.check_schema(schema, format_checker=jsonschema.FormatChecker(formats=()))
    except jsonschema.SchemaError as error:
        place = "/".join(str(step) for step in error.absolute_path)
        raise Unenforceable(f"is no JSON schema: {error.message[:200]} (at #/{place})") from None
    nodes: dict[str, Any] = {}
    heights: dict[str, int] = {}
    collect(schema, "", nodes, heights)
    look = _Look(schema, dialect, nodes)
    targets = {look.target(node["$ref"]) for node in nodes.values() if isinstance(node, dict) and "$ref" in node}
    if sum(heights[target] for target in targets if target is not None) > MAX_LEVELS:
        raise Unenforceable(f"$ref: what is referred to has more than {MAX_LEVELS} levels, all together")
    for path, node in nodes.items():
        if isinstance(node, dict):
            look.check(path, node)
    members = [node for node in nodes.values() if isinstance(node, dict)]
    _check_multiples(members)
    _check_bounds(members)
    look.check_merged()
    if is_endless(nodes):
        raise Unenforceable("no JSON meets it: it holds itself and never ends")


def unenforceable(schema: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """The keywords that :func:`check` refuses by themselves, each with the part of the schema in which it stands.

    Raises Unenforceable for an unknown dialect.
    """
    nodes: dict[str, Any] = {}
    collect(schema, "", nodes, {})
    look = _Look(schema, dialect_of(schema), nodes)
    return [(n, word) for path, n in nodes.items() if isinstance(n, dict) for word, _ in look.problems(path, n)]


def unenforceable_together(schema: dict[str, Any]) -> Iterator[str]:
    """The keywords that :func:`check` refuses for what they say in several of a schema's parts."""
    nodes: dict[str, Any] = {}
    collect(schema, "", nodes, {})
    members = [node for node in nodes.values() if isinstance(node, dict)]
    look = _Look(schema, dialect_of(schema), nodes)
    for words, check_all in (
        (("multipleOf",), partial(_check_multiples, members)),
        (("exclusiveMinimum", "exclusiveMaximum"), partial(_check_bounds, members)),
        (("pattern", "format"), look.check_merged),
    ):
        try:
            check_all()
        except Unenforceable:
            yield from words


def dialect_of(schema: Mapping[str, Any]) -> Any:
    name = schema.get("$schema")
    if name is None:
        return jsonschema.Draft202012Validator
    found = DIALECTS.get(name.removesuffix("#")) if isinstance(name, str) else None
    if found is None:
        raise Unenforceable(f"$schema: {name!r:.200} is not known; there are: {', '.join(DIALECTS)}")
    return found


class _Look:
    """The look at each schema in one."""

    def __init__(self, root: Mapping[str, Any], dialect: Any, nodes: dict[str, Any]) -> None:
        self._dialect_name = root.get("$schema")
        self._is_2020 = dialect is jsonschema.Draft202012Validator
        self._id = "id" if dialect is jsonschema.Draft4Validator else "$id"
        self._nodes = nodes
        # The pointers of what may be referred to.
        self._targets = {f"#{path}": path for path in nodes}
        for path, node in nodes.items():
            if isinstance(node, dict) and "$anchor" in node:
                self._targets[f"#{node['$anchor']}"] = path
            if isinstance(node, dict) and str(node.get(self._id)).startswith("#"):
                self._targets.setdefault(node[self._id], path)

    def target(self, reference: Any) -> str | None:
        """The pointer of what is referred to; None: it is nothing in here."""
        return self._targets.get(unquote(reference)) if isinstance(reference, str) else None

    def _is_circular(self, node: Any) -> bool:
        """Whether its reference leads to references only."""
        seen: set[str] = set()
        while isinstance(node, dict) and (path := self.target(node.get("$ref"))) is not None:
            if path in seen:
                return True
            seen.add(path)
            node = self._nodes[path]
        return False

    def check(self, path: str, node: Mapping[str, Any]) -> None:
        """Raises Unenforceable."""
        problem = next(self.problems(path, node), None)
        if problem is not None:
            word, why = problem
            raise Unenforceable(f"{word}: {why}" + (f" (at #{path})" if path else ""))

    def check_merged(self) -> None:
        """Raises Unenforceable if a text must meet too many patterns at once."""
        counts: dict[str, int] = {}

        def count(path: str) -> int:
            if path in counts:
                return counts[path]
            counts[path] = 0  # until it is known: a reference may lead back
            node = self._nodes[path]
            if not isinstance(node, dict):
                return 0
            n = sum(bool(words & node.keys()) for words in _TEXT_WORDS)
            n += sum(count(f"{path}/allOf/{number}") for number in range(len(node.get("allOf", ()))))
            for word in ("anyOf", "oneOf"):
                n += max((count(f"{path}/{word}/{number}") for number in range(len(node.get(word, ())))), default=0)
            if (target := self.target(node.get("$ref"))) is not None:
                n += count(target)
            if n > MAX_MERGED:
                raise Unenforceable(
                    f"pattern: more than {MAX_MERGED} patterns, formats and lengths of one text, of all that allOf and"
                    f" $ref bring together, can't be enforced (at #{path})"
                )
            counts[path] = n
            return n

        # From the innermost outwards.
        for path in reversed(self._nodes):
            count(path)

    def problems(self, path: str, node: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Keywords that can't be enforced, and why."""
        yield from ((word, "this keyword can't be enforced") for word in node if word in _UNENFORCED)
        unknown = "additionalItems" if self._is_2020 else "prefixItems"
        if unknown in node:
            yield unknown, "the schema's dialect doesn't have this keyword"
        if path and node.get("$schema", self._dialect_name) != self._dialect_name:
            yield "$schema", "want one dialect for the whole schema"
        if path and not str(node.get(self._id, "#")).startswith("#"):
            yield self._id, "a schema inside can't have a name of its own; use $ref with #/$defs/NAME"
        reference = node.get("$ref", "#")
        if self.target(reference) is None:
            yield "$ref", f"{reference!r:.200} is no schema inside this one, as #/$defs/NAME is; none is fetched"
        if self._is_circular(node):
            yield "$ref", f"{reference!r:.200} leads back to itself, and to nothing that a value could be"
        yield from _number_problems(node)
        yield from _text_problems(node)
        if node.get("minProperties", 0) > len(node.get("required", ())) + 1:
            yield "minProperties", "can only be enforced up to one more than are required: a name might come twice"
        if len(node.get("patternProperties", ())) > MAX_PATTERN_PROPERTIES:
            yield "patternProperties", f"at most {MAX_PATTERN_PROPERTIES} can be enforced"


def _check_multiples(nodes: Sequence[Mapping[str, Any]]) -> None:
    """Raises Unenforceable if what is a multiple of all of them takes too many states to find."""
    multiple = 1
    for node in nodes:
        if "multipleOf" in node:
            multiple = math.lcm(multiple, _digits(node["multipleOf"]))
            if multiple > MAX_MULTIPLE:
                raise Unenforceable(f"multipleOf: multiples of {multiple}, of all together, take too long to find")


def _check_bounds(nodes: Sequence[Mapping[str, Any]]) -> None:
    """Raises Unenforceable for an open bound that is whole, with another less than 1 away: llguidance lets it in.

    Bounds may come together from several places where schemas are merged.
    """
    merged = any("allOf" in node or (_MERGED & node.keys() and _BOUNDS & node.keys()) for node in nodes)
    together = [nodes] if merged else [[node] for node in nodes if node.get("type") != "integer"]
    for members in together:
        lows = {node["minimum"] for node in members if "minimum" in node}
        highs = {node["maximum"] for node in members if "maximum" in node}
        # Draft 4 has true here, which makes an open bound of the other word's.
        open_lows = {_open(node, "exclusiveMinimum", "minimum") for node in members} - {None}
        open_highs = {_open(node, "exclusiveMaximum", "maximum") for node in members} - {None}
        above, below = sorted(highs | open_highs), sorted(-low for low in lows | open_lows)
        for word, bound, sign, others in (
            *(("exclusiveMinimum", low, 1, above) for low in open_lows),
            *(("exclusiveMaximum", high, -1, below) for high in open_highs),
        ):
            nearest = bisect.bisect_right(others, sign * bound)
            if bound == int(bound) and nearest < len(others) and others[nearest] - sign * bound < 1:
                raise Unenforceable(f"{word}: {bound} can't be enforced with another bound less than 1 away")


def _open(node: Mapping[str, Any], word: str, closed: str) -> Any:
    bound = node.get(word)
    return (node.get(closed) if bound else None) if isinstance(bound, bool) else bound


def _number_problems(node: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for word in _NUMBERS:
        for value in _leaves(node.get(word)):
            if isinstance(value, int | float) and (
                abs(value) > MAX_NUMBER or (isinstance(value, float) and len(str(_digits(value))) > MAX_DIGITS)
            ):
                yield word, f"{value} has more digits than can be enforced"


def _text_problems(node: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for word in ("const", "enum", "required", "properties"):
        texts = node.get(word) if word == "properties" else _leaves(node.get(word))
        if any(isinstance(text, str) and _CONTROL.search(text) for text in texts or ()):
            yield word, "a text with control characters can't be enforced"
    for word, patterns in (
        ("pattern", [node.get("pattern", "")]),
        ("patternProperties", node.get("patternProperties", ())),
    ):
        for pattern in patterns:
            if (found := _ambiguous(pattern)) is not None:
                yield word, f"{found} inside [] means several things; write it with \\"
    if "format" in node and _may_be("string", node) and node["format"] not in FORMATS:
        yield "format", f"{node['format']!r:.100} can't be enforced; there are: {', '.join(FORMATS)}"


def _may_be(kind: str, node: Mapping[str, Any]) -> bool:
    kinds = node.get("type", kind)
    return kind in ([kinds] if isinstance(kinds, str) else kinds)


def _leaves(value: Any) -> Iterator[Any]:
    """All that is in a value, names too."""
    yield value
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    for member in value if isinstance(value, list) else ():
        yield from _leaves(member)


def _digits(number: int | float) -> int:
    _, digits, exponent = Decimal(str(number)).normalize().as_tuple()
    return int("".join(map(str, digits)) + "0" * min(max(0, int(exponent)), MAX_DIGITS + 1))


def _ambiguous(pattern: str) -> str | None:
    """What in its character classes means one thing in JavaScript and another to llguidance."""
    begun_by = ""
    before = ""
    for token in _PATTERN_TOKEN.findall(pattern):
        if not begun_by:
            begun_by = token if token.startswith("[") else ""
        elif token in ("&&", "--", "~~") or token.startswith("[") or (token == "]" and before == begun_by):
            return str(token)
        elif token == "]":
            begun_by = ""
        before = token
    return None
