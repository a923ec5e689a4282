"""What screens look like: SVG pictures in docs/tui, which the README shows.

``UPDATE_SNAPSHOTS=1 pytest tests/tui`` writes them anew; look at them before they are committed.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static, TextArea

FOLDER = Path(__file__).parents[2] / "docs" / "tui"
UPDATE = "UPDATE_SNAPSHOTS"
# Where a picture names its fonts' places: nothing is fetched, and a viewer has a font of its own.
# What is another one each time: the server's port, and the hash of all that is in the picture.
_PORT = re.compile(r"(?<=127\.0\.0\.1:)\d{5}")
_HASH = re.compile(r"(?<=terminal-)\d+")
_FONT_FACE = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)


@pytest.fixture
def frozen_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times of the day are UTC's. The clock itself is the recorded server's, which stands still."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


async def check_snapshot(pilot: Pilot[Any], name: str, tmp_path: Path) -> None:
    """Fails if the screen doesn't look like ``docs/tui/NAME.svg``; the picture of it is then in ``tmp_path``."""
    for field in pilot.app.screen.query("*:focus").results():
        if isinstance(field, Input | TextArea):
            field.cursor_blink = False  # it is seen at some moments only
    for place in pilot.app.screen.query("#where").results(Static):
        place.update("http://127.0.0.1:8080")  # the recorded server's port is another one each time
    await pilot.pause()
    found = _FONT_FACE.sub("", pilot.app.export_screenshot(simplify=True)) + "\n"
    found = _HASH.sub("0", _PORT.sub("40000", found))
    wanted = FOLDER / f"{name}.svg"
    if os.environ.get(UPDATE):
        FOLDER.mkdir(parents=True, exist_ok=True)
        wanted.write_text(found)
        return
    if wanted.is_file() and wanted.read_text() == found:
        return
    seen = tmp_path / f"{name}.svg"
    seen.write_text(found)
    differing = _differing(wanted.read_text() if wanted.is_file() else "", found)
    raise AssertionError(
        f"{name} looks different: {seen} is not {wanted}. If that is meant, write it with {UPDATE}=1. "
        f"Lines that differ:\n{differing}"
    )


def _differing(wanted: str, found: str) -> str:
    """The texts that only one of both pictures has."""
    before, after = set(_texts(wanted)), set(_texts(found))
    lines = [f"- {text}" for text in _texts(wanted) if text not in after]
    lines += [f"+ {text}" for text in _texts(found) if text not in before]
    return "\n".join(lines[:20]) or "only colours or places"


def _texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]+)</text>", svg)
