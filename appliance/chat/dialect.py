"""How a model writes tool calls, as plain data.

An answer with calls is ``text opening call (between call)* closing``, a call is ``before_name name after_name arguments
after_arguments``. All of these are fixed texts, but for :data:`ID` and :data:`COUNT` in them. One grammar builder, one
parser and one writer work from that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

# What stands in a fixed text for a call's id, and for its number.
ID, COUNT = "\ue010", "\ue011"
_SLOTS = {ID: "[A-Za-z0-9_-]+", COUNT: "[0-9]+"}
_FIRST_TAG = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")


@dataclass(frozen=True, slots=True)
class JSONArguments:
    """All arguments as one JSON object, written as the model is used to it."""

    item_separator: str = ", "
    key_separator: str = ": "

    def dumps(self, arguments: Any) -> str:
        return json.dumps(arguments, ensure_ascii=False, separators=(self.item_separator, self.key_separator))


@dataclass(frozen=True, slots=True)
class TaggedArguments:
    """Each argument as ``before_key key before_string text after_value``; what is no string is JSON, after
    ``before_json``."""

    before_key: str
    before_string: str
    before_json: str
    after_value: str


class Piece(NamedTuple):
    """A piece of a fixed text; ``text`` of a slot is the regular expression of what may stand there."""

    kind: Literal["text", "token", "slot"]
    text: str


@dataclass(frozen=True)
class Dialect:
    """How one model writes tool calls.

    ``between`` None: it makes one call at most. ``arguments_as`` says what its template wants a call's arguments as:
    an object, JSON text, or an object with a text for each value. Where not ``is_templated``, the template knows
    nothing of calls, and they are written into the assistant's text. ``is_generic``: the model was taught no calls, a
    text in the prompt says how. ``control_tokens`` are those in the fixed texts, ``free_tokens`` others that may stand
    in an answer. ``reasoning`` has the marks around what the model thinks before it answers, None if it doesn't;
    ``is_reasoning_open``: the prompt ends with the first one.
    """

    opening: str
    before_name: str
    after_name: str
    arguments: JSONArguments | TaggedArguments
    after_arguments: str
    between: str | None
    closing: str
    arguments_as: Literal["object", "text", "texts"] = "object"
    is_templated: bool = True
    is_generic: bool = False
    control_tokens: tuple[str, ...] = ()
    free_tokens: tuple[str, ...] = ()
    reasoning: tuple[str, str] | None = None
    is_reasoning_open: bool = False

    @property
    def shown_tokens(self) -> tuple[str, ...]:
        """Control tokens that the parser must see the text of."""
        return self.control_tokens

    @property
    def fixed_text(self) -> str:
        """All that is fixed, put together."""
        form = self.arguments
        tags = form if isinstance(form, TaggedArguments) else TaggedArguments("", "", "", "")
        return "\n".join(
            [self.opening, self.before_name, self.after_name, self.after_arguments, self.between or "", self.closing]
            + [tags.before_key, tags.before_string, tags.before_json, tags.after_value]
        )

    @cached_property
    def mark(self) -> str:
        """What stands before the first call's name."""
        return self.opening + self.before_name

    @cached_property
    def trigger(self) -> Piece:
        """The beginning of ``mark`` after which nothing but a call can follow."""
        first = self.pieces(self.mark)[0]
        tag = _FIRST_TAG.match(first.text)
        return Piece("text", tag[0]) if first.kind == "text" and tag else first

    @cached_property
    def is_anchored(self) -> bool:
        """Whether ``mark`` is no more than JSON, which is a call at the beginning of an answer only."""
        return self.trigger.kind == "text" and self.trigger.text[0] in "{[" and not _FIRST_TAG.match(self.trigger.text)

    def pieces(self, fixed: str) -> list[Piece]:
        """What a fixed text is made of."""
        found: list[Piece] = []
        for part in self._cut.split(fixed):
            if part in _SLOTS:
                found.append(Piece("slot", _SLOTS[part]))
            elif part:
                found.append(Piece("token" if part in self._tokens else "text", part))
        return found

    @cached_property
    def _tokens(self) -> frozenset[str]:
        return frozenset([*self.control_tokens, *self.free_tokens])

    @cached_property
    def _cut(self) -> re.Pattern[str]:
        apart = sorted([*self._tokens, *_SLOTS], key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, apart))})")

    def write(self, calls: Sequence[tuple[str, str, dict[str, Any]]]) -> str:
        """The text of calls: of each its id, the tool's name and the arguments."""
        written = []
        for number, (call_id, name, arguments) in enumerate(calls):
            before, after_name, after = (
                fixed.replace(ID, call_id).replace(COUNT, str(number))
                for fixed in (self.before_name, self.after_name, self.after_arguments)
            )
            written.append(before + name + after_name + self._write_arguments(arguments) + after)
        return self.opening + (self.between or "").join(written) + self.closing

    def _write_arguments(self, arguments: dict[str, Any]) -> str:
        form = self.arguments
        if isinstance(form, JSONArguments):
            return form.dumps(arguments)
        return "".join(
            form.before_key
            + key
            + (form.before_string + value if isinstance(value, str) else form.before_json + _json(value))
            + form.after_value
            for key, value in arguments.items()
        )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
