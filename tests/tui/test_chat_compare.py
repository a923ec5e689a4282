"""The same question to two models, and results that were written before."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from textual.message import Message
from textual.pilot import Pilot
from textual.widgets import Input

from tests.tui.recorded import Asked, RecordedServer, Stream, is_told, opened, recorded, refusal, screen_text, until
from tests.tui.talk import CHAT, NOW_S, chunk, conversation, last
from tui.chat.comparison import Compared, ResultsRefused, asked, read_results
from tui.screens.chat import ChatScreen
from tui.screens.compare import CompareScreen
from tui.widgets.chat.composer import Composer
from tui.widgets.chat.dialogs import AskText


def outcome(text: str, **fields: Any) -> dict[str, Any]:
    return {
        "text": text,
        "finish_reason": "stop",
        "seconds": 2.0,
        "ttft_s": 0.5,
        "n_prompt": 9,
        "n_completion": 4,
    } | fields


def results(path: Path, *rows: tuple[str, str, str]) -> Path:
    """A file as ``appliance models compare --json`` writes it: questions with both answers."""
    content = [
        {"messages": [{"role": "user", "content": question}], "a": outcome(a), "b": outcome(b, finish_reason="length")}
        for question, a, b in rows
    ]
    path.write_text(json.dumps(content))
    return path


@contextlib.asynccontextmanager
async def comparing(server: RecordedServer) -> AsyncIterator[tuple[Pilot[None], list[Compared]]]:
    """The screen, and what was told to be answered."""
    answered: list[Compared] = []

    def hook(message: Message) -> None:
        if isinstance(message, CompareScreen.Answered) and message.compared not in answered:
            answered.append(message.compared)

    async with opened(server, "chat", size=(120, 30), hook=hook) as pilot:
        assert isinstance(chat := pilot.app.screen, ChatScreen)
        chat.session.conversation.sampling = {"temperature": 0}
        await pilot.press(*"Why?", "ctrl+g")
        await until(pilot, lambda: isinstance(pilot.app.screen, CompareScreen) and pilot.app.focused is not None)
        await until(pilot, lambda: "B: large (stored)" in screen_text(pilot))
        yield pilot, answered


def streams(server: RecordedServer) -> dict[str, Stream]:
    """Those of the models that were asked, by name; each request gets one of its own."""
    found: dict[str, Stream] = {}

    def answer(asked: Asked) -> Stream:
        return found.setdefault(asked.body["model"], Stream({}))

    server.answer("POST", CHAT, answer)
    return found


async def test_both_are_asked_at_once_and_shown_side_by_side() -> None:
    async with recorded() as server, comparing(server) as (pilot, answered):
        asked_ones = streams(server)
        await pilot.press("enter")
        await until(pilot, lambda: len(asked_ones) == 2)
        asked_ones["large"].push(chunk(content="Slow") | {"model": "large"})
        asked_ones["small"].push(chunk(content="Quick"))
        await until(pilot, lambda: "Quick" in screen_text(pilot) and "Slow" in screen_text(pilot))
        line = next(line for line in screen_text(pilot).splitlines() if "Quick" in line)
        assert line.index("Quick") < line.index("Slow")
        for name, stream in asked_ones.items():
            stream.push(last(n_completion=len(name)))
            stream.end()
        await until(pilot, lambda: answered)
        await until(pilot, lambda: "(the answers differ)" in screen_text(pilot))
        assert "20 + 5 tokens" in screen_text(pilot)
        bodies = [asked.body for asked in server.of("POST", CHAT)]
    assert [body["messages"] for body in bodies] == [[{"role": "user", "content": "Why?"}]] * 2
    assert [body["temperature"] for body in bodies] == [0, 0]


async def test_one_may_fail_while_the_other_answers() -> None:
    async with recorded() as server, comparing(server) as (pilot, answered):

        def answer(asked: Asked) -> Any:
            if asked.body["model"] == "large":
                return refusal(503, "large doesn't fit", "does_not_fit")
            stream = Stream({})
            stream.push(chunk(content="Quick"), last())
            stream.end()
            return stream

        server.answer("POST", CHAT, answer)
        await pilot.press("enter")
        await until(pilot, lambda: answered)
        await until(pilot, lambda: "Quick" in screen_text(pilot) and "X Large doesn't fit." in screen_text(pilot))
        assert pilot.app.screen.query_one(Composer).text == "Why?"


async def test_escape_stops_both_and_then_goes_back() -> None:
    async with recorded() as server, comparing(server) as (pilot, answered):
        asked_ones = streams(server)
        await pilot.press("enter")
        await until(pilot, lambda: len(asked_ones) == 2)
        await pilot.press("enter")
        await is_told(pilot, "Answers are being given; Esc stops them.")
        await pilot.press("escape")
        await until(pilot, lambda: answered)
        for stream in asked_ones.values():
            await stream.client_left.wait()
        assert [answer.outcome for answer in answered[0].answers] == ["stopped", "stopped"]
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))


async def test_models_are_chosen_one_after_the_other() -> None:
    async with recorded() as server, comparing(server) as (pilot, _):
        await pilot.press("ctrl+t")
        await until(pilot, lambda: "Which model answers?" in screen_text(pilot))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "A: large" in screen_text(pilot))
        await pilot.press("up", "enter")
        await until(pilot, lambda: "B: small" in screen_text(pilot))


async def test_results_are_opened_and_leafed_through(tmp_path: Path) -> None:
    path = results(tmp_path / "results.json", ("1+1?", "2", "2"), ("Why?", "Because.", "So."))
    async with recorded() as server, comparing(server) as (pilot, _):
        await pilot.press("ctrl+o")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskText))
        field = pilot.app.screen.query_one(Input)
        field.value = str(tmp_path / "other.json")
        await pilot.press("enter")
        await until(pilot, lambda: "is no file." in screen_text(pilot))
        field.value = str(path)
        await pilot.press("enter")
        await until(pilot, lambda: "1/2  1+1?  (the answers are the same)" in screen_text(pilot))
        assert "A, of results.json" in screen_text(pilot)
        await pilot.press("alt+right")
        await until(pilot, lambda: "2/2  Why?  (the answers differ)" in screen_text(pilot))
        assert "2.0 tokens/s · first after 0.50 s · 9 + 4 tokens" in screen_text(pilot)
        await pilot.press("alt+left")
        await until(pilot, lambda: "1/2  1+1?" in screen_text(pilot))


def test_the_file_of_the_command_is_read(tmp_path: Path) -> None:
    (found,) = read_results(str(results(tmp_path / "a.json", ("Why?", "A.", "B."))))
    left, right = found.answers
    assert (found.question, left.text, right.text, right.finish_reason) == ("Why?", "A.", "B.", "length")
    assert left.figures.tokens_per_s == 2.0


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]", '[{"messages": []}]', "[" * 10_000, "[]"])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ResultsRefused, match="was not written by|holds no questions"):
        read_results(str(tmp_path / "a.json"))


def test_the_question_is_asked_as_the_conversation_is_set_up() -> None:
    like = conversation(system="Be brief.", sampling={"seed": 1}, model="other")
    made, question = asked(like, "small", "Why?", NOW_S)
    assert (made.model, made.system, made.sampling) == ("small", "Be brief.", {"seed": 1})
    assert made.path == [question]
