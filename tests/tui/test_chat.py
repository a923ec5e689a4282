"""The chat as its user sees it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.message import Message
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import Collapsible, Input, OptionList

from tests.tui import sample
from tests.tui.recorded import RecordedServer, Stream, is_told, opened, recorded, refusal, screen_text, until
from tests.tui.test_chat_stream import CHAT, chunk, give, last
from tui.chat.conversation import Answer, Question
from tui.chat.store import ConversationStore, default_folder
from tui.screens.chat import ChatScreen
from tui.widgets.chat.composer import Composer
from tui.widgets.chat.dialogs import AskText, Choose
from tui.widgets.chat.library_panel import LibraryPanel
from tui.widgets.chat.message import MessageView
from tui.widgets.chat.messages import AnswerView
from tui.widgets.chat.settings import SettingsDrawer
from tui.widgets.chat.shown import Shown
from tui.widgets.chat.transcript import MAX_SHOWN
from tui.widgets.confirm import Confirm


@dataclass
class Talk:
    """The chat in front of a recorded server. ``ended`` are the answers that have ended, as they were told."""

    pilot: Pilot[None]
    server: RecordedServer
    ended: list[Answer]

    @property
    def screen(self) -> ChatScreen:
        (screen,) = (screen for screen in self.pilot.app.screen_stack if isinstance(screen, ChatScreen))
        return screen

    @property
    def text(self) -> str:
        return screen_text(self.pilot)

    @property
    def typed(self) -> str:
        return self.screen.box.text

    @property
    def path(self) -> list[Question | Answer]:
        return self.screen.session.messages

    @property
    def texts(self) -> list[str]:
        return [message.text for message in self.path]

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [asked.body for asked in self.server.of("POST", CHAT)]

    async def until(self, *words: str) -> None:
        """They are all on the screen."""
        await until(self.pilot, lambda: all(word in self.text for word in words))

    async def send(self, text: str) -> None:
        self.screen.box.put(text)
        await self.pilot.press("enter")

    async def ask(self, text: str) -> Answer:
        """To the answer's end."""
        n_before = len(self.ended)
        await self.send(text)
        return await self.end(n_before)

    async def end(self, n_before: int) -> Answer:
        await until(self.pilot, lambda: len(self.ended) > n_before and self.screen.session.turn is None)
        return self.ended[-1]

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()


@contextlib.asynccontextmanager
async def talk(server: RecordedServer, size: tuple[int, int] = (80, 24), key: str | None = None) -> AsyncIterator[Talk]:
    ended: list[Answer] = []

    def hook(message: Message) -> None:
        if isinstance(message, ChatScreen.AnswerEnded) and (not ended or message.turn.answer is not ended[-1]):
            ended.append(message.turn.answer)

    async with opened(server, "chat", size=size, key=key, hook=hook) as pilot:
        yield Talk(pilot, server, ended)


@contextlib.asynccontextmanager
async def talking(*events: dict[str, Any] | str, size: tuple[int, int] = (80, 24)) -> AsyncIterator[Talk]:
    """Each request gets these events, and is complete."""
    async with recorded() as server:
        answer_all(server, *events)
        async with talk(server, size) as found:
            yield found


def answer_all(server: RecordedServer, *events: dict[str, Any] | str) -> None:
    def answer(asked: object) -> Stream:
        stream = Stream({})
        for event in events or (chunk(content=f"Answer {len(server.of('POST', CHAT)) + 1}"), chunk("stop"), last()):
            if isinstance(event, str):
                stream.comment(event)
            else:
                stream.push(event)
        stream.end()
        return stream

    server.answer("POST", CHAT, answer)


def stored() -> ConversationStore:
    """What is on the disk, as another program sees it."""
    return ConversationStore(default_folder())


async def test_an_answer_comes_bit_by_bit_with_its_figures() -> None:
    async with recorded() as server, talk(server) as it:
        stream = give(server, chunk(role="assistant", content=""), headers={"X-Cache": "miss"})
        await it.send("Why?")
        await it.until("You", "Why?", "small", "Waiting for the first token")
        stream.comment("prefill 512/3000")
        await it.until("Reading the prompt: 512 of 3,000 tokens, 17%")
        stream.push(chunk(reasoning_content="Let me think."))
        await it.until("▶ Reasoning ...")
        stream.push(chunk(content="Because of **"))
        await it.until("Because of", "▶ Reasoning (13 characters)")
        stream.push(chunk(content="that**.\n\n```python\nprint(1)\n```\n"))
        await it.until("Because of that.", "print(1)")
        stream.push(chunk("stop"), last(n_prompt=4000, n_completion=96))
        stream.end()
        answer = await it.end(0)
        await it.until("50.0 tokens/s · first after 0.25 s · 4,000 + 96 tokens", "miss", "4,096 / 8,192 (50%)")
        assert answer.outcome == "complete"
        assert it.typed == ""


async def test_reasoning_is_unfolded_and_tool_calls_are_shown() -> None:
    call = {"index": 0, "function": {"name": "look", "arguments": '{"a": [1]}'}}
    async with talking(chunk(reasoning_content="Deep [thought]"), chunk(tool_calls=[call]), chunk("tool_calls")) as it:
        await it.ask("Look")
        await it.until('-> look({"a": [1]})')
        assert "Deep" not in it.text
        it.screen.query_one(Collapsible).collapsed = False
        await it.until("Deep [thought]")


async def test_text_is_drawn_at_most_four_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_at_s: list[float] = []
    draw = AnswerView.show

    async def counted(self: AnswerView, message: Shown) -> None:
        drawn_at_s.append(asyncio.get_running_loop().time())
        await draw(self, message)

    async with recorded() as server, talk(server) as it:
        stream = give(server, chunk(content="Begun"))
        await it.send("Count")
        await it.until("Begun")
        monkeypatch.setattr(AnswerView, "show", counted)
        for number in range(500):
            stream.push(chunk(content=f"{number} "))
        await it.until("499")
        turn = it.screen.session.turn
        assert turn is not None
        assert turn.version > 500  # each event was taken by itself
    assert 1 <= len(drawn_at_s) <= 4 * (drawn_at_s[-1] - drawn_at_s[0]) + 2


async def test_nothing_is_drawn_while_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Widget] = []
    refresh = Widget.refresh

    def counted(self: Widget, *args: Any, **options: Any) -> Widget:
        if any(node.id == "body" for node in self.ancestors):
            drawn.append(self)
        return refresh(self, *args, **options)

    async with talking() as it:
        await it.ask("Why?")
        await it.until("50.0 tokens/s")
        n_polled = len(it.server.of("GET", "/admin/status"))
        monkeypatch.setattr(Widget, "refresh", counted)
        await until(it.pilot, lambda: len(it.server.of("GET", "/admin/status")) >= n_polled + 3)
        assert drawn == []


async def test_escape_stops_and_keeps_what_has_come() -> None:
    async with recorded() as server, talk(server) as it:
        stream = give(server, chunk(content="One two"))
        await it.send("Count")
        await it.until("One two")
        await it.press("escape")
        answer = await it.end(0)
        await it.until("One two", "stopped")
        await stream.client_left.wait()
        assert (answer.text, answer.outcome) == ("One two", "stopped")
        answer_all(server)
        await it.ask("Go on")
        assert [message["content"] for message in it.bodies[-1]["messages"]] == ["Count", "One two", "Go on"]


async def test_escape_before_anything_came_gives_the_question_back() -> None:
    async with recorded() as server, talk(server) as it:
        give(server)
        await it.send("Never mind")
        await it.until("Waiting for the first token")
        await it.press("escape")
        await it.end(0)
        assert it.typed == "Never mind"


async def test_another_question_has_to_wait_and_is_kept() -> None:
    async with recorded() as server, talk(server) as it:
        give(server, chunk(content="One"))
        await it.send("Count")
        await it.until("One")
        await it.send("And then?")
        await is_told(it.pilot, "Esc stops it")
        assert it.typed == "And then?"
        assert len(it.bodies) == 1


async def test_a_question_may_have_several_lines() -> None:
    async with talking() as it:
        await it.press("a", "ctrl+j", "b", "shift+enter", "c")
        await it.press("enter")
        await it.end(0)
        assert it.path[0].text == "a\nb\nc"


async def test_again_adds_an_answer_and_one_can_go_back() -> None:
    async with talking() as it:
        await it.ask("Why?")
        await it.press("ctrl+r")
        await it.end(1)
        await it.until("Answer 2", "2/2")
        await it.press("up", "left")
        await it.until("Answer 1", "1/2")
        await it.press("right")
        await it.until("Answer 2", "2/2")
        assert len(it.bodies) == 2


async def test_places_are_switched_by_the_mouse() -> None:
    async with talking() as it:
        await it.ask("Why?")
        await it.press("ctrl+r")
        await it.end(1)
        await it.until("2/2")
        answer = it.screen.query(AnswerView).last()
        await it.pilot.click(answer, offset=(10, 0))  # on the <
        await it.until("Answer 1", "1/2")


async def test_an_edited_question_keeps_the_old_one() -> None:
    async with talking() as it:
        await it.ask("Why?")
        await it.press("up", "e")
        await it.until("Edit the question (Esc: leave it)")
        assert it.typed == "Why?"
        assert it.texts == []
        await it.ask("Why not?")
        assert it.texts == ["Why not?", "Answer 2"]
        assert [m["content"] for m in it.bodies[-1]["messages"]] == ["Why not?"]
        await it.press("up", "up", "left")
        await it.until("Why?", "Answer 1", "1/2")


async def test_a_branch_begins_after_any_answer_and_can_be_left() -> None:
    async with talking() as it:
        await it.ask("One")
        await it.ask("Two")
        it.screen.box.put("begun")
        await it.press("shift+tab", "up", "up", "b")  # from the last answer to the first
        await it.until("Ask something else here")
        assert it.texts == ["One", "Answer 1"]
        await it.press("escape")
        assert it.texts == ["One", "Answer 1", "Two", "Answer 2"]
        assert it.typed == "begun"
        await it.press("shift+tab", "up", "up", "b")
        await it.ask("Other")
        assert it.texts == ["One", "Answer 1", "Other", "Answer 3"]


async def test_a_message_and_its_code_are_copied_whole() -> None:
    markdown = "Two:\n```python\nprint(1)\n```\n```sh\nls\n```\n"
    async with talking(chunk(content=markdown)) as it:
        long = "word " * 2000
        await it.ask(long)
        await it.until("Two:")
        await it.press("up", "c")
        assert it.pilot.app.clipboard == markdown
        await it.press("k")
        await until(it.pilot, lambda: isinstance(it.pilot.app.screen, Choose))
        await it.press("up", "enter")
        await until(it.pilot, lambda: it.pilot.app.clipboard == "print(1)\n")
        await it.press("up", "c")
        assert it.pilot.app.clipboard == long.strip("\n")


async def test_what_is_set_is_sent_and_nothing_else() -> None:
    async with talking() as it:
        await it.press("ctrl+s")
        drawer = it.screen.query_one(SettingsDrawer)
        await until(it.pilot, lambda: drawer.display and drawer.has_focus_within)
        await it.press(*"Brief", "tab", *"0.5", "tab", "tab", *"40")
        await it.press("escape", "ctrl+s", "ctrl+s")
        await it.until("system prompt, temperature 0.5, top_k 40")
        await it.ask("Why?")
        body = it.bodies[0]
        assert body.pop("messages")[0] == {"role": "system", "content": "Brief"}
        assert body == {
            "temperature": 0.5,
            "top_k": 40,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


async def test_what_can_t_be_sent_is_said_and_nothing_is_sent() -> None:
    async with talking() as it:
        await it.press("ctrl+s")
        field = it.screen.query_one("#temperature", Input)
        field.value = "3"
        await it.until("X Want a number less")
        await it.press("escape")
        await it.send("Why?")
        await is_told(it.pilot, "temperature: Want a number less than or equal to 2.")
        assert it.bodies == []
        assert it.typed == "Why?"
        field.value = ""
        await it.pilot.pause()
        await it.ask("Why?")
        assert "temperature" not in it.bodies[0]


async def test_a_model_is_chosen_and_loaded_by_asking() -> None:
    async with recorded() as server, talk(server) as it:
        await it.press("ctrl+t")
        await it.until("The server's default (small)", "small  ready", "large  not loaded: asking loads it")
        await it.press("down", "down", "enter")
        await it.until("large (stored)")
        stream = give(server)
        loading = sample.model_status(name="large", version="333333333333", state="loading", load_ratio=0.4)
        server.answer("GET", "/admin/status", sample.status(models=[loading]))
        await it.send("Why?")
        await it.until("Loading large: 40%", "large (loading 40%)")
        stream.push(chunk(content="Because."), last())
        stream.end()
        await it.end(0)
        assert it.bodies[0]["model"] == "large"


async def test_the_place_in_the_queue_is_shown() -> None:
    async with recorded() as server, talk(server) as it:
        waiting = sample.request(request_id="r-1", state="waiting", queue_place=3)
        server.answer("GET", "/admin/requests", sample.requests(requests=[waiting]))
        give(server, chunk(role="assistant", content=""), headers={"X-Request-ID": "r-1"})
        await it.send("Why?")
        await it.until("Waiting in the queue, place 3")
        await it.press("escape")
        await it.end(0)
        n_asked = len(server.of("GET", "/admin/requests"))
        n_polled = len(server.of("GET", "/admin/status"))
        await until(it.pilot, lambda: len(server.of("GET", "/admin/status")) > n_polled + 1)
        assert len(server.of("GET", "/admin/requests")) <= n_asked + 1


@pytest.mark.parametrize(
    ("status", "message", "code", "headers", "sentence"),
    [
        (401, "the API key isn't known", "invalid_api_key", {}, "X The API key isn't known."),
        (404, "no model x; there are: small", "model_not_found", {}, "X No model x; there are: small."),
        (
            429,
            "8 requests wait already",
            "queue_full",
            {"Retry_After": "7"},
            "X 8 requests wait already. Try again in 7 s.",
        ),
        (400, "the prompt has 900 tokens; this model's context holds 512", "context_length_exceeded", {}, "holds 512."),
    ],
)
async def test_a_refusal_is_one_sentence_and_the_text_is_kept(
    status: int, message: str, code: str, headers: dict[str, str], sentence: str
) -> None:
    async with recorded() as server, talk(server) as it:
        server.answer("POST", CHAT, refusal(status, message, code, **headers))
        await it.ask("Why?")
        await it.until(sentence, "failed")
        assert it.typed == "Why?"
        answer_all(server)
        await it.press("enter")  # unchanged: the same question, and no other
        await it.end(1)
        assert it.texts == ["Why?", "Answer 2"]
        assert it.typed == ""
        assert len(it.screen.session.conversation.messages) == 2


async def test_a_wrong_key_is_one_sentence_everywhere() -> None:
    async with recorded() as server:
        async with talk(server, key="wrong") as it:
            server.key = "right"
            await it.ask("Why?")
            await it.until("X The API key isn't known.", "! The API key isn't known.")
            assert it.typed == "Why?"


async def test_the_server_is_killed_and_comes_back_while_one_chats() -> None:
    async with recorded() as server, talk(server) as it:
        give(server, chunk(content="Half an"))
        await it.send("Why?")
        await it.until("Half an")
        it.screen.box.put("typed meanwhile")
        await server.stop()
        answer = await it.end(0)
        await it.until("Half an", f"X The connection to {server.url} broke", "broken off", "! No server answers")
        assert (answer.text, answer.outcome) == ("Half an", "failed")
        assert it.typed == "typed meanwhile"
        await it.press("enter")
        await it.end(1)
        await it.until(f"X No server answers at {server.url}.")
        assert it.typed == "typed meanwhile"
        await server.start()
        answer_all(server)
        await until(it.pilot, lambda: it.pilot.app.snapshot.connection.is_good)  # type: ignore[attr-defined]
        assert "! No server answers" not in it.text
        await it.press("enter")
        await it.end(2)
        assert it.typed == ""
        assert it.texts[:3] == ["Why?", "Half an", "typed meanwhile"]
        assert it.path[-1].text.startswith("Answer")


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


async def test_what_the_server_sends_is_neither_markup_nor_obeyed() -> None:
    text = "[red]not red[/red] [@click=app.quit]x[/] \x1b[31mescape <b>html</b>"
    async with talking(chunk(content=text) | {"model": "[bold]m"}) as it:
        await it.ask("[blink]Why?[/")
        await it.until(
            "[blink]Why?[/", "[bold]m", "[red]not red[/red] [@click=app.quit]x[/]", "␛[31mescape", "<b>html</b>"
        )


async def test_a_long_conversation_shows_its_end_first() -> None:
    async with talking() as it:
        conversation = it.screen.session.conversation
        parent = ""
        for number in range(MAX_SHOWN):
            question = Question(parent=parent, created_s=0, text=f"question {number}")
            conversation.add(question)
            answer = Answer(parent=question.id, created_s=0, text=f"answer {number}", outcome="complete")
            conversation.add(answer)
            parent = answer.id
        await it.ask("the last")
        await it.until("Answer 1")
        assert len(it.screen.query(MessageView)) == MAX_SHOWN
        it.screen.query(MessageView).first().focus()
        await it.press("up")
        await until(it.pilot, lambda: len(it.screen.query(MessageView)) == 2 * MAX_SHOWN)
        assert len(it.bodies[0]["messages"]) == 2 * MAX_SHOWN + 1


@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
async def test_panels_have_room(size: tuple[int, int]) -> None:
    async with talking(size=size) as it:
        library, drawer = it.screen.query_one(LibraryPanel), it.screen.query_one(SettingsDrawer)
        is_wide = size[0] > 100
        assert library.display == is_wide
        await it.press("ctrl+s")
        await until(it.pilot, lambda: drawer.has_focus_within)
        assert library.display == is_wide
        await it.press("ctrl+l")
        await until(it.pilot, lambda: library.has_focus_within)
        assert drawer.display == is_wide
        await it.press("ctrl+l")
        assert not library.display
        assert it.screen.query_one(Composer).has_focus
        for panel in (it.screen.box, it.screen.transcript):
            assert panel.region.right <= size[0]
            assert panel.region.width >= 40
