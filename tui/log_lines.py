"""Lines of the server's log: how bad each is, and how it is shown; what is copied is the line as it was written."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache

LEVELS = ("debug", "info", "warning", "error")
_RANKS = {"debug": 0, "info": 1, "warning": 2, "error": 3, "critical": 3}
# As the appliance's console form writes it: date, time, level, logger, message.
_CONSOLE = re.compile(r"\d{4}-\d\d-\d\d (\d\d:\d\d:\d\d)[,.]\d+ ([A-Z]+) +(\S+) (.*)", re.DOTALL)
_JSON_LEVEL = re.compile(r'"level": ?"(\w+)"')
_JSON_TIME = re.compile(r"T(\d\d:\d\d:\d\d)")
_SIGNS = {"debug": ".", "info": " ", "warning": "!", "error": "X"}


@dataclass(frozen=True, slots=True)
class LogEntry:
    """``number`` is the server's, ``rank`` the place of its level in LEVELS."""

    number: int
    text: str
    rank: int

    @property
    def level(self) -> str:
        return LEVELS[self.rank]


def entry(number: int, text: str) -> LogEntry:
    """A line whose level can't be told, as an engine's may be, is taken for an informative one."""
    if text.startswith("{"):
        found = _JSON_LEVEL.search(text)
        name = found[1] if found else ""
    else:
        found = _CONSOLE.match(text)
        name = found[2].lower() if found else ""
    return LogEntry(number, text, _RANKS.get(name, 1))


@lru_cache(maxsize=512)
def shown(line: LogEntry) -> str:
    """On one line: a sign for its level, the time of the day, what happened."""
    sign = _SIGNS[line.level]
    if line.text.startswith("{") and (told := _json_told(line.text)) is not None:
        return _one_line(f"{sign} {told}")
    if (found := _CONSOLE.match(line.text)) is not None:
        time_of_day, _, logger, message = found.groups()
        return _one_line(f"{sign} {time_of_day} {_short(logger)}: {message}")
    return _one_line(f"{sign} {line.text}")


def _json_told(text: str) -> str | None:
    """None: it isn't the appliance's."""
    try:
        fields = json.loads(text)
    except ValueError:
        return None
    if not isinstance(fields, dict) or not {"time", "logger"} <= fields.keys():
        return None
    at = _JSON_TIME.search(str(fields.pop("time")))
    logger, _ = _short(str(fields.pop("logger"))), fields.pop("level", None)
    message = str(fields.pop("event", None) or fields.pop("message", ""))
    rest = " ".join(f"{name}={value}" for name, value in fields.items())
    return f"{at[1] if at else ''} {logger}: {message} {rest}".rstrip()


def _short(logger: str) -> str:
    return logger.rpartition(".")[2]


def _one_line(text: str) -> str:
    """Without what a terminal would obey."""
    if text.isprintable():
        return text
    text = text.rstrip().replace("\n", " | ").replace("\t", " ")
    return "".join(char if char.isprintable() else "?" for char in text)
