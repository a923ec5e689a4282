"""Conversations and files on the client's disk, as they are seen in the chat."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from textual import events
from textual.widgets import Input, OptionList

from tests.tui.recorded import is_told, recorded, until
from tests.tui.talk import answer_all, chunk, give, last, stored, talk, talking
from tui.chat.store import default_folder
from tui.widgets.chat.dialogs import AskText
from tui.widgets.confirm import Confirm


async def test_conversations_are_kept_found_and_opened_again() -> None:
    async with talking(size=(140, 40)) as it:
        await it.ask("About apples")
        await it.press("ctrl+n")
        await it.ask("About pears")
        await it.until("> About pears", "About apples")
        assert [summary.title for summary in stored().summaries()] == ["About pears", "About apples"]
        await it.press("ctrl+l", *"apples")
        await until(it.pilot, lambda: it.screen.query_one(OptionList).option_count == 1)
        await it.press("enter", "enter")
        await until(it.pilot, lambda: it.texts == ["About apples", "Answer 1"])
        await it.until("Answer 1")


async def test_what_was_said_is_there_after_a_restart() -> None:
    async with talking() as it:
        await it.ask("About apples")
        it.screen.box.put("not sent yet")
        await it.pilot.pause()
    (summary,) = stored().summaries()
    kept = stored().load(summary.id)
    assert [message.text for message in kept.path] == ["About apples", "Answer 1"]
    assert kept.draft == "not sent yet"
    async with talking() as it:
        await it.press("ctrl+l")
        await it.until("About apples")
        await it.press("enter", "enter")
        await until(it.pilot, lambda: it.typed == "not sent yet")


async def test_an_answer_goes_on_while_another_conversation_is_open() -> None:
    async with recorded() as server, talk(server, size=(140, 40)) as it:
        stream = give(server, chunk(content="One"))
        await it.send("First")
        await it.until("One")
        first = it.screen.session
        await it.press("ctrl+n")
        assert it.texts == []
        stream.push(chunk(content=" two"), last())
        stream.end()
        await until(it.pilot, lambda: it.ended)
        assert it.ended[0].text == "One two"
        await until(it.pilot, lambda: stored().load(first.conversation.id).path[-1].text == "One two")


async def test_a_conversation_is_renamed_exported_and_deleted(tmp_path: Path) -> None:
    async with talking(size=(140, 40)) as it:
        await it.ask("About apples")
        await it.press("up", "t")
        await until(it.pilot, lambda: isinstance(it.pilot.app.screen, AskText))
        it.pilot.app.screen.query_one(Input).value = "Fruit [bold]"
        await it.press("enter")
        await it.until("> Fruit [bold]")
        await it.press("x")
        await until(it.pilot, lambda: isinstance(it.pilot.app.screen, AskText))
        field = it.pilot.app.screen.query_one(Input)
        assert field.value == "~/Fruit-bold.md"
        field.value = str(tmp_path / "no" / "such.md")
        await it.press("enter")
        await it.until("can't be written")
        field.value = str(tmp_path / "fruit.md")
        await it.press("enter")
        await until(it.pilot, (tmp_path / "fruit.md").exists)
        assert (tmp_path / "fruit.md").read_text().startswith("# Fruit [bold]\n")
        await it.press("d")
        await until(it.pilot, lambda: isinstance(it.pilot.app.screen, Confirm))
        await it.press("n")
        assert len(stored().summaries()) == 1
        await it.press("d")
        await until(it.pilot, lambda: isinstance(it.pilot.app.screen, Confirm))
        await it.press("y")
        await until(it.pilot, lambda: stored().summaries() == [])
        await until(it.pilot, lambda: it.texts == [])


async def test_a_deleted_conversation_stays_deleted_though_it_was_answering() -> None:
    async with recorded() as server, talk(server) as it:
        give(server, chunk(content="One"))
        await it.send("First")
        await it.until("One")
        await it.press("up", "d")
        await until(it.pilot, lambda: isinstance(it.pilot.app.screen, Confirm))
        await it.press("y")
        await until(it.pilot, lambda: it.ended)
        await until(it.pilot, lambda: it.texts == [])
    assert stored().summaries() == []


async def test_a_damaged_file_never_stops_the_start() -> None:
    default_folder().mkdir(parents=True)
    (default_folder() / "00000000000000aa.json").write_text("{")
    async with talking() as it:
        await is_told(it.pilot, "is damaged; it was set aside")
        await it.ask("Still here?")
    assert len(stored().summaries()) == 1


async def test_a_disk_that_takes_nothing_is_said_and_one_can_go_on() -> None:
    default_folder().parent.mkdir(parents=True)
    default_folder().write_text("a file where the folder should be")
    async with talking() as it:
        await it.ask("Why?")
        await it.until("Answer 1")
        await is_told(it.pilot, "can't be written")


async def test_files_are_attached_and_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("some notes")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0")
    async with talking() as it:
        await it.press("ctrl+o")
        field = it.pilot.app.screen.query_one(Input)
        field.value = str(tmp_path / "image.png")
        await it.press("enter")
        await it.until("X image.png is no text")
        field.value = str(tmp_path / "notes.txt")
        await it.press("enter")
        await it.until("[file: notes.txt, 10 characters]")
        await it.ask("Sum up")
        await it.until("Sum up", "[file: notes.txt, 10 characters]")
        assert it.bodies[0]["messages"][0]["content"] == "Sum up\n\nFile notes.txt:\n```\nsome notes\n```"
        assert it.screen.session.attachments == []


async def test_a_long_paste_becomes_a_file_and_a_short_one_text() -> None:
    async with talking() as it:
        it.pilot.app.post_message(events.Paste("short\nlines"))
        await until(it.pilot, lambda: it.typed == "short\nlines")
        it.pilot.app.post_message(events.Paste("line\n" * 100))
        await it.until("[file: pasted-1.txt, 500 characters]")
        assert it.typed == "short\nlines"
        await it.press("alt+o")
        assert it.screen.session.attachments == []
        it.pilot.app.post_message(events.Paste("x" * 600_000))
        await is_told(it.pilot, "at most 512 KiB can be attached")


@pytest.mark.parametrize("n_pauses", range(6))
async def test_one_may_quit_at_any_moment(n_pauses: int) -> None:
    async with recorded() as server:
        answer_all(server)
        async with talk(server, size=(140, 40)) as it:
            await it.send("Why?")
            for _ in range(n_pauses):
                await asyncio.sleep(0)
    (summary,) = stored().summaries()
    assert summary.title == "Why?"
