"""Takes an answer as it comes and tells its calls from its text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from appliance.chat.argument_types import argument_json, is_json, properties_of, types_of
from appliance.chat.dialect import Dialect, Piece, TaggedArguments
from appliance.chat.tools import CallArguments, CallBegun, CallEvent, Content, Tool

_STRING = frozenset(["string"])
_STRUCTURE = re.compile(r'["\\{}\[\]]')


class _MoreWanted(Exception):
    """What is there can be told only by what follows."""


class _Call(NamedTuple):
    end: int
    tool: Tool


class ToolCallParser:
    """Events of one answer. It takes any text: what is no call is content, also after the beginning of one."""

    def __init__(self, dialect: Dialect, tools: Sequence[Tool]) -> None:
        self._tools = {tool.name: tool for tool in tools}
        # Letters of some scripts are no \w: those that go with another one.
        self._name = re.compile(rf"[\w{re.escape(''.join(self._tools))}-]+")
        self._dialect = dialect
        self._mark = dialect.pieces(dialect.mark)
        self._after_name = dialect.pieces(dialect.after_name)
        self._after_arguments = dialect.pieces(dialect.after_arguments)
        self._next = None if dialect.between is None else dialect.pieces(dialect.between + dialect.before_name)
        self._closing = dialect.pieces(dialect.closing)
        self._buffer = ""
        self._has_content = False
        self._state: Callable[[], bool] = self._read_text
        self._events: list[CallEvent] = []
        self._index = -1
        self._tool = Tool("", None, {})
        self._json = _JSONObject()
        self._n_arguments = 0
        self._key = ""
        self._n_seen = 0  # characters of a value in which no end of it begins
        self._types: frozenset[str] = frozenset()
        self._is_json = False

    def push(self, text: str) -> list[CallEvent]:
        """What is known now that the answer went on by ``text``."""
        self._buffer += text
        try:
            while self._state():
                pass
        except _MoreWanted:
            pass
        events, self._events = self._events, []
        return events

    def finish(self) -> list[CallEvent]:
        """The rest, now that the answer is over. A call that isn't complete stays so."""
        events = self.push("")
        if self._state == self._read_text and (self._index < 0 or self._buffer.strip()):
            self._say(len(self._buffer))
        events += self._events
        self._buffer, self._events = "", []
        return events

    # States: each takes something off the buffer, and says whether the next one may find something in it.

    def _read_text(self) -> bool:
        first = self._mark[0].text
        start = 0
        while (found := self._buffer.find(first, start)) >= 0 and self._may_begin_at(found):
            n_text = len(self._buffer[:found].rstrip())
            try:
                call = self._match_call(self._mark, found)
            except _MoreWanted:
                self._say(n_text)
                raise
            if call is not None:
                self._say(n_text)
                self._begin(call._replace(end=call.end - n_text))
                return True
            start = found + 1
        n_held = next((n for n in range(len(first) - 1, 0, -1) if self._buffer.endswith(first[:n])), 0)
        if not self._may_begin_at(len(self._buffer) - n_held):
            n_held = 0
        self._say(len(self._buffer[: len(self._buffer) - n_held].rstrip()))
        return False

    def _may_begin_at(self, position: int) -> bool:
        return not self._dialect.is_anchored or not (
            self._has_content or self._index >= 0 or self._buffer[:position].strip()
        )

    def _read_json(self) -> bool:
        n, is_over = self._json.feed(self._buffer)
        if n:
            self._events.append(CallArguments(self._index, self._buffer[:n]))
        is_other = not n and bool(self._buffer)
        self._buffer = self._buffer[n:]
        if is_over:
            self._state = self._read_after_arguments
        elif is_other:
            self._state = self._read_text
        return is_over or is_other

    def _read_key(self) -> bool:
        form = self._tagged
        start = self._match([Piece("text", form.before_key)], 0)
        if start is None:
            if self._match(self._after_arguments, 0) is not None:
                self._events.append(CallArguments(self._index, "}" if self._n_arguments else "{}"))
                self._state = self._read_after_arguments
            else:
                self._state = self._read_text
            return True
        ends = {
            end: mark for mark in (form.before_json, form.before_string) if (end := self._buffer.find(mark, start)) >= 0
        }
        if not ends:
            raise _MoreWanted
        end = min(ends)
        key = self._buffer[start:end]
        if form.before_json == form.before_string:
            root = self._tool.parameters
            self._types = types_of(properties_of(root).get(key), root)
            self._is_json = bool(self._types) and "string" not in self._types
        else:
            self._types, self._is_json = _STRING, ends[end] == form.before_json
        self._key = key
        self._n_seen = 0
        self._buffer = self._buffer[end + len(ends[end]) :]
        self._state = self._read_value
        return True

    def _read_value(self) -> bool:
        mark = self._tagged.after_value
        end = self._buffer.find(mark, self._n_seen)
        while end >= 0 and self._is_json and not is_json(self._buffer[:end]):  # the mark stands in a text of it
            end = self._buffer.find(mark, end + 1)
        if end < 0:
            self._n_seen = max(0, len(self._buffer) - len(mark) + 1)
            raise _MoreWanted
        text = self._buffer[:end]
        value = text.strip() if self._is_json else argument_json(text, self._types)
        before = "," if self._n_arguments else "{"
        self._n_arguments += 1
        self._events.append(CallArguments(self._index, f"{before}{argument_json(self._key, _STRING)}:{value}"))
        self._buffer = self._buffer[end + len(mark) :]
        self._state = self._read_key
        return True

    def _read_after_arguments(self) -> bool:
        end = self._match(self._after_arguments, 0)
        self._buffer = self._buffer[end or 0 :]
        self._state = self._read_text if end is None else self._read_next
        return True

    def _read_next(self) -> bool:
        call = None if self._next is None else self._match_call(self._next, 0)
        if call is not None:
            self._begin(call)
        else:
            self._buffer = self._buffer[self._match(self._closing, 0) or 0 :]
            self._state = self._read_text
        return True

    # What they are made of.

    @property
    def _tagged(self) -> TaggedArguments:
        form = self._dialect.arguments
        assert isinstance(form, TaggedArguments)
        return form

    def _begin(self, call: _Call) -> None:
        self._buffer = self._buffer[call.end :]
        self._index += 1
        self._tool = call.tool
        self._n_arguments = 0
        self._json = _JSONObject()
        self._events.append(CallBegun(self._index, call.tool.name))
        is_tagged = isinstance(self._dialect.arguments, TaggedArguments)
        self._state = self._read_key if is_tagged else self._read_json

    def _match_call(self, before: Sequence[Piece], start: int) -> _Call | None:
        """The call that begins at ``start``, up to its arguments. None: there is none."""
        position = self._match(before, start)
        if position is None:
            return None
        name = self._name.match(self._buffer, position)
        if name is None and position < len(self._buffer):
            return None
        if name is None or name.end() == len(self._buffer):
            raise _MoreWanted
        tool = self._tools.get(name[0])
        end = None if tool is None else self._match(self._after_name, name.end())
        return None if tool is None or end is None else _Call(end, tool)

    def _match(self, pieces: Sequence[Piece], start: int) -> int | None:
        """Where the pieces end that begin at ``start``. None: something else is there."""
        position = start
        for piece in pieces:
            rest = self._buffer[position : position + len(piece.text)]
            if piece.kind == "slot":
                found = re.compile(piece.text).match(self._buffer, position)
                if found is None and position < len(self._buffer):
                    return None
                if found is None or found.end() == len(self._buffer):
                    raise _MoreWanted
                position = found.end()
            elif rest == piece.text:
                position += len(rest)
            elif piece.text.startswith(rest) and position + len(rest) == len(self._buffer):
                raise _MoreWanted
            else:
                return None
        return position

    def _say(self, n_chars: int) -> None:
        if n_chars:
            self._has_content = True
            self._events.append(Content(self._buffer[:n_chars]))
            self._buffer = self._buffer[n_chars:]


class _JSONObject:
    """Finds the end of a JSON object in a text that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_string = self._is_escaped = False

    def feed(self, text: str) -> tuple[int, bool]:
        """How many characters belong to the object, and whether it ends there. 0 of some: it is none."""
        if not self._depth and not text.startswith("{"):
            return 0, False
        position = 0
        if self._is_escaped and text:
            position, self._is_escaped = 1, False
        while found := _STRUCTURE.search(text, position):
            position = found.end()
            char = found[0]
            if self._is_string:
                if char == '"':
                    self._is_string = False
                elif char == "\\":
                    self._is_escaped = position == len(text)
                    position += 1
            elif char == '"':
                self._is_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if not self._depth:
                    return position, True
        return len(text), False
