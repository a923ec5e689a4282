"""Learns from a model's chat template how the model writes tool calls.

Conversations with marked calls are rendered, and what stands around the marks is read off: with one call and with two,
after a text and without one. Fixed texts are compared by whole tags, so that no mark ends inside of one. What is read
off counts only if the parser finds the same calls in the template's own text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from appliance.chat.call_parser import ToolCallParser
from appliance.chat.conversation import for_template
from appliance.chat.dialect import COUNT, ID, Dialect, JSONArguments, TaggedArguments
from appliance.chat.named_dialects import REASONING
from appliance.chat.sandbox import TemplateLimitExceeded
from appliance.chat.tools import CallArguments, CallBegun, Content, Tool
from appliance.errors import InvalidRequest

Render = Callable[[Sequence[Mapping[str, Any]], Sequence[Tool]], str]
ArgumentsAs = Literal["object", "text", "texts"]

_USER, _CONTENT = "the user's own words", "the answer's own words"
_NAMES = ("alphatool", "betatool")
_KEYS = ("firstkey", "secondkey")
_IDS = ("idabcdef0", "idabcdef1")
# With what a notation might have to escape.
_TEXT, _OBJECT = 'some "plain"\n<value> & ü', {"x": [1, True, None]}
_ARGUMENTS = {_KEYS[0]: _TEXT, _KEYS[1]: _OBJECT}
# With what some templates write as Python does.
_CHECKED = {**_ARGUMENTS, "thirdkey": True, "fourthkey": None}
_PARAMETERS = {
    "type": "object",
    "properties": {
        _KEYS[0]: {"type": "string"},
        _KEYS[1]: {"type": "object"},
        "thirdkey": {"type": "boolean"},
        "fourthkey": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    },
    "required": list(_KEYS),
}
TOOLS = tuple(Tool(name, "does it", _PARAMETERS) for name in _NAMES)
_JSON_FORMS = (JSONArguments(), JSONArguments(",", ":"))
_LONE_NUMBER = re.compile(r"(?<![A-Za-z0-9_])\d+(?![A-Za-z0-9_])")


# No short conversation is longer; more would take long to compare.
_MAX_CHARS = 100_000


class _Unlearnable(Exception):
    """The template's calls have none of the shapes that are known."""


class _Unusable(Exception):
    """The template is one to be left alone: it takes too long, or writes too much."""


def learn(render: Render, control_tokens: Sequence[str]) -> Dialect | None:
    """The dialect of the template that ``render`` renders with, None if it can't be learnt.

    ``control_tokens`` are those that the template names.
    """

    def bounded(messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]) -> str:
        try:
            text = render(messages, tools)
        except TemplateLimitExceeded as error:
            raise _Unusable from error
        if len(text) > _MAX_CHARS:
            raise _Unusable
        return text

    try:
        return _learn(_Learner(bounded, control_tokens))
    except (InvalidRequest, _Unusable):
        return None


def _learn(learner: _Learner) -> Dialect | None:
    tries: list[tuple[Callable[[ArgumentsAs], Dialect], ArgumentsAs]] = [
        (learner.with_json, "object"),
        (learner.with_tags, "object"),
        (learner.with_tags, "texts"),
    ]
    if not learner.takes_objects:
        tries.append((learner.with_json, "text"))
    for shape, way in tries:
        try:
            dialect = shape(way)
            if learner.is_right(dialect):
                return dialect
        except (InvalidRequest, _Unlearnable):
            continue
    return None


def shows_tools(render: Render) -> bool:
    """Whether the template tells the model of the tools."""
    try:
        return _NAMES[0] in render([{"role": "user", "content": _USER}], TOOLS)
    except InvalidRequest:
        return False


class _Learner:
    def __init__(self, render: Render, control_tokens: Sequence[str]) -> None:
        self._render = render
        apart = sorted(control_tokens, key=len, reverse=True)
        # One that ends the only call may be what ends the text.
        self._last_tokens = re.compile(rf"(?:{'|'.join(map(re.escape, apart)) or '(?!)'})*$")
        self._atom = re.compile("|".join([*map(re.escape, apart), r"<[^<>\s]*>?", r"\s+", r"\w+", "."]), re.DOTALL)
        self._header, _, self._tail = map(_with_slots, self._answer(_CONTENT).partition(_CONTENT))

    @property
    def takes_objects(self) -> bool:
        """Whether the template has a notation of its own for arguments that are an object."""
        try:
            return _TEXT in self._answer("", "object", 1)
        except InvalidRequest:
            return False

    def with_json(self, way: ArgumentsAs) -> Dialect:
        for form in _JSON_FORMS:
            written = form.dumps(_ARGUMENTS)
            try:
                before, after_name, last = self._around(way, 1, [_NAMES[0], written])
                break
            except _Unlearnable:
                continue
        else:
            raise _Unlearnable
        between = None
        try:
            _, _, between, _, last = self._around(way, 2, [_NAMES[0], written, _NAMES[1], written])
        except (InvalidRequest, _Unlearnable):
            pass
        return self._dialect(self._mark(way, before), after_name, form, between, self._before_tail(last), way)

    def with_tags(self, way: ArgumentsAs) -> Dialect:
        written = JSONArguments().dumps(_OBJECT)
        marks = [_NAMES[0], _KEYS[0], _TEXT, _KEYS[1], written]
        before, to_key, before_string, to_next, before_json, last = self._around(way, 1, marks)
        before_key = self._common_end(to_key, to_next).lstrip()
        after_name, after_value = _without_end(to_key, before_key), _without_end(to_next, before_key)
        if not (before_key and before_string and before_json and after_value):
            raise _Unlearnable
        form = TaggedArguments(before_key, before_string, before_json, after_value)
        between = None
        try:
            found = self._around(way, 2, [*marks, _NAMES[1], *marks[1:]])
            between, last = found[5], found[-1]
        except (InvalidRequest, _Unlearnable):
            pass
        end = self._before_tail(last)
        if not end.startswith(after_value.rstrip()):
            raise _Unlearnable
        return self._dialect(
            self._mark(way, before),
            after_name,
            form,
            None if between is None else _without_start(between, after_value),
            _without_start(end, after_value),
            way,
        )

    def is_right(self, dialect: Dialect) -> bool:
        """Whether the parser finds the calls in what the template writes of them."""
        n_calls = 1 if dialect.between is None else 2
        parser = ToolCallParser(dialect, TOOLS)
        answer = self._before_tail(self._answer("", dialect.arguments_as, n_calls, _CHECKED))
        events = parser.push(answer[max(0, answer.find(dialect.trigger.text)) :]) + parser.finish()
        called = [event.name for event in events if isinstance(event, CallBegun)]
        if called != list(_NAMES[:n_calls]) or any(isinstance(event, Content) for event in events):
            return False
        written = [""] * n_calls
        for event in events:
            if isinstance(event, CallArguments):
                written[event.index] += event.text
        try:
            return [json.loads(text) for text in written] == [_CHECKED] * n_calls
        except ValueError:
            return False

    def _dialect(
        self,
        mark: str,
        after_name: str,
        form: JSONArguments | TaggedArguments,
        between: str | None,
        end: str,
        way: ArgumentsAs,
    ) -> Dialect:
        """Tells what belongs to each call from what stands around all of them."""
        if not mark:
            raise _Unlearnable
        if between is None:
            before_name, between_calls = mark, None
            after_arguments = self._last_tokens.sub("", end)
        else:
            before_name = self._common_end(mark, between)
            after_arguments = self._common_start(between, end)
            if len(before_name) + len(after_arguments) > len(between):
                before_name = before_name.lstrip()
            if len(before_name) + len(after_arguments) > len(between):
                after_arguments = after_arguments.rstrip()
            if len(before_name) + len(after_arguments) > len(between) or not before_name:
                raise _Unlearnable
            between_calls = between[len(after_arguments) : len(between) - len(before_name)]
        dialect = Dialect(
            opening=_without_end(mark, before_name),
            before_name=before_name,
            after_name=after_name,
            arguments=form,
            after_arguments=after_arguments,
            between=between_calls,
            closing=end[len(after_arguments) :],
            arguments_as=way,
        )
        # What every text may hold is no mark.
        if dialect.trigger.kind == "slot" or (len(dialect.trigger.text) < 3 and not dialect.is_anchored):
            raise _Unlearnable
        return dialect

    # What the template writes.

    def _answer(
        self,
        content: str,
        way: ArgumentsAs = "object",
        n_calls: int = 0,
        arguments: dict[str, Any] = _ARGUMENTS,
    ) -> str:
        """What follows the user's message in a conversation that ends with the assistant's."""
        answer: dict[str, Any] = {"role": "assistant", "content": content}
        if n_calls:
            answer["tool_calls"] = [
                {
                    "id": _IDS[number],
                    "type": "function",
                    "function": {"name": _NAMES[number], "arguments": for_template(arguments, way)},
                }
                for number in range(n_calls)
            ]
        text = self._render([{"role": "user", "content": _USER}, answer], TOOLS)
        return text.rpartition(_USER)[2]

    def _around(self, way: ArgumentsAs, n_calls: int, marks: Sequence[str], content: str = "") -> list[str]:
        """What stands before, between and after the marks. Raises _Unlearnable if they don't follow each other."""
        pieces = []
        rest = self._answer(content, way, n_calls)
        for mark in marks:
            before, found, rest = rest.partition(mark)
            if not found:
                raise _Unlearnable
            pieces.append(before)
        return [_with_slots(piece) for piece in (*pieces, rest)]

    def _mark(self, way: ArgumentsAs, before: str) -> str:
        """What stands before the first call, without what stands before every answer."""
        mark = before[len(self._common_start(before, self._header)) :]
        try:
            mark = self._common_end(mark, self._around(way, 1, [_CONTENT, _NAMES[0]], _CONTENT)[1])
        except (InvalidRequest, _Unlearnable):
            pass
        for _, closing in REASONING:
            mark = mark.rpartition(closing)[2]
        return mark.lstrip()

    def _before_tail(self, after: str) -> str:
        """What stands after the last call, without what stands after every answer."""
        return _without_end(after, self._common_end(after, self._tail)).rstrip()

    def _common_start(self, one: str, other: str) -> str:
        common = []
        for atom, same in zip(self._atom.findall(one), self._atom.findall(other), strict=False):
            if atom != same:
                break
            common.append(atom)
        return "".join(common)

    def _common_end(self, one: str, other: str) -> str:
        common: list[str] = []
        pairs = zip(reversed(self._atom.findall(one)), reversed(self._atom.findall(other)), strict=False)
        for atom, same in pairs:
            if atom != same:
                break
            common.insert(0, atom)
        return "".join(common)


def _with_slots(text: str) -> str:
    for call_id in _IDS:
        text = text.replace(call_id, ID)
    return _LONE_NUMBER.sub(COUNT, text)


def _without_start(text: str, start: str) -> str:
    if not text.startswith(start):
        raise _Unlearnable
    return text[len(start) :]


def _without_end(text: str, end: str) -> str:
    if not text.endswith(end):
        raise _Unlearnable
    return text[: len(text) - len(end)]
