"""Logging: one line an event, never a prompt, an answer or a key."""

from __future__ import annotations

import json
import logging
import sys
import time

FORMAT = "%(asctime)s %(levelname)-7s %(name)s %(message)s"


class Event(str):
    """A log message with its fields: ``event key=value`` on a console, keys of their own in JSON."""

    name: str
    fields: dict[str, object]


class JsonFormatter(logging.Formatter):
    """One JSON object a line; times in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if isinstance(record.msg, Event):
            line |= {"event": record.msg.name, **record.msg.fields}
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure(level: str, form: str) -> None:
    """Sends the records of the appliance, and warnings of its libraries, to stderr as ``console`` or ``json``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(FORMAT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("appliance").setLevel(level.upper())


def event(name: str, **fields: object) -> Event:
    """A message of ``name`` and its fields; text with spaces or control characters is quoted."""
    message = Event(" ".join([name, *(f"{key}={_value(value)}" for key, value in fields.items())]))
    message.name, message.fields = name, fields
    return message


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if text.isprintable() and " " not in text else repr(text)
