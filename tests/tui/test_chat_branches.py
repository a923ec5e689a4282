"""Going about in a conversation: other answers, other questions, copying."""

from __future__ import annotations

from tests.tui.recorded import until
from tests.tui.talk import chunk, talking
from tui.chat.conversation import Answer, Question
from tui.widgets.chat.dialogs import Choose
from tui.widgets.chat.message import MessageView
from tui.widgets.chat.messages import AnswerView
from tui.widgets.chat.transcript import MAX_SHOWN


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
