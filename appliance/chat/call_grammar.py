"""The grammar of a whole answer that may hold tool calls, in llguidance's Lark.

Free text runs up to the call's opening mark; from there on everything is fixed, but for what the tool's schema leaves
open. Control tokens are no text to llguidance: they may stand only where they are named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from appliance.chat.argument_types import properties_of, resolved, types_of
from appliance.chat.dialect import Dialect, JSONArguments, Piece, TaggedArguments
from appliance.chat.formats import JSON_STYLE
from appliance.chat.plain_values import can_hold, can_hold_key, is_only_properties, listed, says_only
from appliance.chat.schema_parts import SchemaParts
from appliance.chat.tools import Tool
from appliance.engine.control_tokens import special_token
from appliance.errors import InvalidRequest

# Four times as many as all definitions may have.
MAX_GRAMMAR_CHARS = 2 << 20
_SCALARS = frozenset(["string", "number", "integer", "boolean", "null"])
_LISTS = frozenset(["type", "enum", "const"])
_COMMON = """\
TEXT: /(?s:.+)/
ANY: /(?s:.*)/
WS: /[ \\t\\r\\n]{1,8}/
"""


def answer_grammar(dialect: Dialect, tools: Sequence[Tool], choice: str, *, parallel: bool) -> str:
    """The Lark grammar of a whole answer; ``choice`` is ``auto``, ``required`` or a tool's name.

    Raises InvalidRequest if a tool's parameters can't be enforced in this dialect.
    """
    chosen = [tool for tool in tools if choice in ("auto", "required", tool.name)]
    if not chosen:
        raise InvalidRequest(f"tool_choice names {choice!r}, which is none of the tools", param="tool_choice")
    return _Builder(dialect).answer(chosen, is_free=choice == "auto", parallel=parallel)


class _Builder:
    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._rules: list[str] = []
        self._lazy: dict[str, str] = {}
        self._n_chars = 0

    def answer(self, tools: Sequence[Tool], *, is_free: bool, parallel: bool) -> str:
        dialect = self._dialect
        body = self._fixed(dialect.mark[len(dialect.trigger.text) :]) + " call"
        if parallel and dialect.between is not None:
            body += f" ({self._fixed(dialect.between + dialect.before_name)} call)*"
        self._rule("calls", f"{body} {self._closing()}")
        self._rule("call", " | ".join(self._call(number, tool) for number, tool in enumerate(tools)))
        start = self._free_start() if is_free else f"{self._reasoning()} {self._fixed(dialect.trigger.text)} calls"
        return f"start: {start}\n{_COMMON}" + "\n".join(self._rules) + "\n"

    def _free_start(self) -> str:
        """Text, calls or both."""
        dialect, trigger = self._dialect, self._dialect.trigger
        others = [token for token in (*dialect.control_tokens, *dialect.free_tokens) if token != trigger.text]
        if others:
            self._rule("other", " | ".join(map(special_token, others)))
        text = "(TEXT? other)*" if others else ""
        if dialect.is_anchored:
            self._rule("PLAIN", f"/[ \\t\\r\\n]*[^ \\t\\r\\n{re.escape(trigger.text[0])}](?s:.*)/")
            plain = "PLAIN (other TEXT?)* | (other TEXT?)+" if others else "PLAIN"
            return f"({plain})? | WS? {self._fixed(trigger.text)} calls"
        # The mark opens a call also where its characters are written one by one.
        self._rule("trigger[lazy]", f"ANY {_literal(trigger.text)}")
        opened = "trigger"
        if trigger.kind == "token":
            opened = f"(TEXT? {special_token(trigger.text)} | trigger)"
        return f"{text} (TEXT? | {opened} calls)"

    def _reasoning(self) -> str:
        """What may stand before a call that must come."""
        if self._dialect.reasoning is None:
            return ""
        opening, closing = self._dialect.reasoning
        if not self._dialect.is_reasoning_open:
            return f"({self._fixed(opening)} {self._until(closing)} WS?)?"
        # The prompt may have ended the reasoning as well: what begins as a call does is one.
        start = re.escape(self._dialect.trigger.text[0])
        self._rule("THOUGHT", f"/[^{start}](?s:.*)/")
        return f"(({self._until(closing, 'THOUGHT')} | {self._fixed(closing)}) WS?)?"

    def _call(self, number: int, tool: Tool) -> str:
        form = self._dialect.arguments
        if isinstance(form, JSONArguments):
            arguments = self._json(tool.schema, form)
        else:
            arguments = self._tagged(form, tool)
        head = self._joined(tool.name, self._dialect.after_name)
        self._rule(f"call_{number}", f"{head} {arguments} {self._fixed(self._dialect.after_arguments)}")
        return f"call_{number}"

    def _closing(self) -> str:
        pieces = self._dialect.pieces(self._dialect.closing)
        written: list[str] = []
        while pieces and pieces[-1].kind == "token":
            # An EOG token in its place ends the text as well.
            written.insert(0, f"{special_token(pieces.pop().text)}?")
        return " ".join([*map(_written, pieces), *written])

    # Arguments with a tag for each.

    def _tagged(self, form: TaggedArguments, tool: Tool) -> str:
        root = tool.parameters
        schema, properties = resolved(root, root), properties_of(root)
        required = schema.get("required")
        required = [key for key in required if isinstance(key, str)] if isinstance(required, list) else []
        self._check(tool, not tool.strict or is_only_properties(root), "its parameters")
        if not properties and not required:
            self._check(tool, not tool.strict or schema.get("additionalProperties") is False, "its parameters")
            if schema.get("additionalProperties") is False:
                return ""
            key = f'{self._fixed(form.before_key)} /[^<>"=\\s]+/ {self._fixed(form.before_string)}'
            return f"({key} {self._until(form.after_value)})*"
        parts = SchemaParts(root)
        written = []
        for key in dict.fromkeys([*properties, *required]):
            if properties.get(key) is False:
                continue
            if not can_hold_key(form, key):
                raise InvalidRequest(
                    f"the model can't write the name {key!r:.200} of the tool {tool.name}'s parameter: it holds the "
                    "mark that ends a name",
                    param="tools",
                )
            value = self._value(form, tool, key, properties.get(key, {}), parts)
            before = f"{self._fixed(form.before_key)} {_literal(key)}"
            written.append(f"({before} ({value})){'' if key in required else '?'}")
        return " ".join(written)

    def _value(self, form: TaggedArguments, tool: Tool, key: str, schema: Any, parts: SchemaParts) -> str:
        root = tool.parameters
        types = types_of(schema, root)
        if types and "string" not in types:
            return self._as_json(form, parts.alone(schema))
        what = f"that of {key}"
        if (values := listed(schema, root)) is not None:
            kept = [value for value in values if can_hold(form, value, types)]
            is_exact = len(kept) == len(values) and says_only(_LISTS, schema, root)
            self._check(tool, not tool.strict or is_exact, what)
            if kept:
                return " | ".join(self._listed(form, value) for value in kept)
        is_plain = bool(types) and types <= _SCALARS and says_only({"type"}, schema, root)
        self._check(tool, not tool.strict or is_plain, what)
        as_text = f"{self._fixed(form.before_string)} {self._until(form.after_value)}"
        if form.before_string == form.before_json or types == {"string"}:
            return as_text
        return f"{as_text} | {self._as_json(form, parts.alone(schema))}"

    def _as_json(self, form: TaggedArguments, schema: Mapping[str, Any]) -> str:
        value = self._json(schema, JSONArguments())
        return f"{self._fixed(form.before_json)} {value} {self._fixed(form.after_value)}"

    def _listed(self, form: TaggedArguments, value: Any) -> str:
        before, text = (form.before_string, value) if isinstance(value, str) else (form.before_json, _literal(value))
        return f"{self._fixed(before)} {self._joined(text, form.after_value)}"

    def _check(self, tool: Tool, is_kept: bool, what: str) -> None:
        if not is_kept:
            raise InvalidRequest(
                f"the model writes arguments as plain text, in which {what} can't be enforced for the tool "
                f"{tool.name}; leave out strict, or ask for types, enum and const only",
                param="tools",
            )

    # What they are made of.

    def _json(self, schema: Mapping[str, Any], form: JSONArguments) -> str:
        style = {
            **JSON_STYLE,
            "item_separator": form.item_separator,
            "key_separator": form.key_separator,
        }
        written = json.dumps({**schema, "x-guidance": style}, ensure_ascii=False)
        self._n_chars += len(written)
        if self._n_chars > MAX_GRAMMAR_CHARS:
            raise InvalidRequest(
                f"tools: their schemas make a grammar of more than {MAX_GRAMMAR_CHARS} characters: this model's calls "
                "need what an argument refers to once for each",
                param="tools",
            )
        return f"%json {written}"

    def _until(self, mark: str, text: str = "ANY") -> str:
        """Any text up to the first ``mark``, with it."""
        first, *others = self._dialect.pieces(mark)
        if first.kind == "token":
            return f"{'TEXT?' if text == 'ANY' else text} {self._fixed(mark)}"
        body = f"{text} {_written(first)}"
        if body not in self._lazy:
            self._lazy[body] = f"until_{len(self._lazy)}"
            self._rule(f"{self._lazy[body]}[lazy]", body)
        return " ".join([self._lazy[body], *map(_written, others)])

    def _fixed(self, text: str) -> str:
        return " ".join(map(_written, self._dialect.pieces(text)))

    def _joined(self, text: str, fixed: str) -> str:
        """A client's text, in which no control token is one, and a fixed one."""
        pieces = self._dialect.pieces(fixed)
        if pieces and pieces[0].kind == "text":
            text += pieces.pop(0).text
        return " ".join([_literal(text), *map(_written, pieces)])

    def _rule(self, name: str, body: str) -> None:
        self._rules.append(f"{name}: {body}")


def _written(piece: Piece) -> str:
    if piece.kind == "token":
        return special_token(piece.text)
    return f"/{piece.text}/" if piece.kind == "slot" else _literal(piece.text)


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
