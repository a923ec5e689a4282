"""What the chat looks like. The pictures are those in the README."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.widgets import Input

from tests.tui.recorded import recorded, screen_text, until
from tests.tui.snapshots import check_snapshot, frozen_zone  # noqa: F401
from tests.tui.talk import NOW_S, ask, conversation, reply, stored, talking
from tests.tui.test_chat_compare import comparing, results
from tui.widgets.chat.dialogs import AskText

pytestmark = pytest.mark.usefixtures("frozen_zone")

ANSWER = """Count them **in one pass**, with a `Counter`:

```python
from collections import Counter

def most_common(words: list[str], n: int) -> list[tuple[str, int]]:
    return Counter(words).most_common(n)
```

| way | time |
| --- | --- |
| `Counter` | linear |
| sorting | n log n |

Equal counts come in the order in which they were met.
"""


def kept() -> None:
    """Three conversations on the disk, of which the latest has an answer with all that there may be."""
    for number, question in enumerate(["Translate the release notes", "Why is the build slow?"]):
        talk = conversation(id=f"{number:016}", changed_s=NOW_S - 86_400 * (2 - number))
        reply(talk, ask(talk, question), "...")
        stored().save(talk)
    talk = conversation(id="f" * 16, system="You are a careful programmer.", sampling={"temperature": 0, "seed": 7})
    question = ask(talk, "Which words of a text are the most common? In Python, please.")
    reply(talk, question, "Sort them.")
    figures = {
        "prompt_tokens": 1204,
        "completion_tokens": 187,
        "cached_tokens": 960,
        "ttft_s": 0.35,
        "tokens_per_s": 42.1,
        "seconds": 4.8,
        "cache": "miss",
    }
    reply(talk, question, ANSWER, model="small", reasoning="The user wants counts. " * 12, figures=figures)
    stored().save(talk)


async def test_a_conversation(tmp_path: Path) -> None:
    kept()
    async with talking(size=(120, 36)) as it:
        await it.press("ctrl+l", "enter", "enter")
        await it.until("> Which words", "Equal counts", "1,391 / 8,192 (17%)", "2/2")
        await check_snapshot(it.pilot, "chat", tmp_path)


async def test_the_drawer_in_a_small_window(tmp_path: Path) -> None:
    kept()
    async with talking() as it:
        await it.press("ctrl+l")
        await it.until("Which words")
        await it.press("enter", "enter")
        await it.until("Equal counts")
        await it.press("ctrl+s")
        it.screen.query_one("#temperature", Input).value = "3"
        await it.until("X Want a number less")
        await check_snapshot(it.pilot, "chat-settings", tmp_path)


async def test_two_answers_side_by_side(tmp_path: Path) -> None:
    path = results(
        tmp_path / "results.json", ("Which words are the most common?", "Sort them, and **count** runs.", ANSWER)
    )
    async with recorded() as server, comparing(server) as (pilot, _):
        await pilot.press("ctrl+o")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskText))
        pilot.app.screen.query_one(Input).value = str(path)
        await pilot.press("enter")
        await until(pilot, lambda: "the answers differ" in screen_text(pilot) and "Equal counts" in screen_text(pilot))
        await check_snapshot(pilot, "compare", tmp_path)
