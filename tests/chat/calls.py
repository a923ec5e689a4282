"""What a parser found, in one piece."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from appliance.chat.call_parser import ToolCallParser
from appliance.chat.dialect import Dialect
from appliance.chat.tools import CallArguments, CallBegun, CallEvent, Content, Tool


@dataclass
class Found:
    content: str = ""
    names: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def calls(self) -> list[tuple[str, Any]]:
        """The names, and the arguments as JSON has them."""
        return [(name, json.loads(text)) for name, text in zip(self.names, self.texts, strict=True)]


def joined(events: Iterable[CallEvent]) -> Found:
    found = Found()
    for event in events:
        match event:
            case Content(text):
                found.content += text
            case CallBegun(index, name):
                assert index == len(found.names)
                found.names.append(name)
                found.texts.append("")
            case CallArguments(index, text):
                assert index == len(found.names) - 1
                found.texts[index] += text
    return found


def parsed(dialect: Dialect, pieces: Iterable[str], tools: Sequence[Tool]) -> Found:
    parser = ToolCallParser(dialect, tools)
    events = [event for piece in pieces for event in parser.push(piece)]
    return joined([*events, *parser.finish()])
