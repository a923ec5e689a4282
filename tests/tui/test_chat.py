"""Asking, and what is seen of answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from textual.widget import Widget
from textual.widgets import Collapsible, Input

from tests.tui import sample
from tests.tui.recorded import is_told, recorded, refusal, until
from tests.tui.talk import CHAT, answer_all, chunk, give, last, talk, talking
from tui.widgets.chat.composer import Composer
from tui.widgets.chat.library_panel import LibraryPanel
from tui.widgets.chat.messages import AnswerView
from tui.widgets.chat.settings import SettingsDrawer
from tui.widgets.chat.shown import Shown


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


async def test_what_the_server_sends_is_neither_markup_nor_obeyed() -> None:
    text = "[red]not red[/red] [@click=app.quit]x[/] \x1b[31mescape <b>html</b>"
    async with talking(chunk(content=text) | {"model": "[bold]m"}) as it:
        await it.ask("[blink]Why?[/")
        await it.until(
            "[blink]Why?[/", "[bold]m", "[red]not red[/red] [@click=app.quit]x[/]", "␛[31mescape", "<b>html</b>"
        )


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
