"""Requests in a file, a JSON object on each line: bodies, or lines of OpenAI's batch files."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import ConfigError

_BOM = b"\xef\xbb\xbf"
# A file of more than this takes a while to be looked through.
_LARGE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Line:
    """``text`` is a JSON object as it stands in the file."""

    number: int
    text: bytes


def read_lines(file: Path) -> list[Line]:
    """Those that aren't empty; all have been looked at. Raises ConfigError for a file or a line that is no good."""
    from appliance.cli.progress import report

    found = []
    try:
        with file.open("rb") as opened:
            status = file.stat()
            is_large = stat.S_ISREG(status.st_mode) and status.st_size > _LARGE_BYTES
            reading = report().stage(f"reading {file}", status.st_size, is_bytes=True)
            with reading if is_large else nullcontext(lambda n: None) as advance:
                for number, raw in enumerate(opened, 1):
                    text = (raw.removeprefix(_BOM) if number == 1 else raw).strip()
                    if text:
                        _check(file, number, text)
                        found.append(Line(number, text))
                    advance(len(raw))
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror}") from None
    if not found:
        raise ConfigError(f"{file} holds no request")
    return found


def parts(lines: Sequence[Line], *, max_lines: int, max_bytes: int) -> Iterator[list[Line]]:
    """``lines`` in their order, in parts of at most so much; a line that is larger is a part of its own."""
    part: list[Line] = []
    n_bytes = 0
    for line in lines:
        if part and (len(part) == max_lines or n_bytes + len(line.text) > max_bytes):
            yield part
            part, n_bytes = [], 0
        part.append(line)
        n_bytes += len(line.text)
    if part:
        yield part


def _check(file: Path, number: int, text: bytes) -> None:
    try:
        # Not orjson: it is stricter than the server, which says what is wrong with such a request.
        body = json.loads(text.decode())
    except UnicodeDecodeError:
        raise ConfigError(f"{file} line {number}: no text in UTF-8") from None
    except RecursionError:
        raise ConfigError(f"{file} line {number}: no valid JSON: too deeply nested") from None
    except ValueError as error:
        raise ConfigError(f"{file} line {number}: no valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise ConfigError(f"{file} line {number}: want a JSON object, the body of a request")
