"""Where the next question goes, and what is shown meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from appliance.schemas.admin import AdapterInfo, ModelList
from tests.tui import sample
from tests.tui.talk import NOW_S, ask, conversation, reply
from tui.chat.conversation import Attachment, Outcome
from tui.chat.library import Library
from tui.chat.models import model_asked, models
from tui.chat.session import Session
from tui.chat.store import ConversationStore, StoreError
from tui.chat.stream import Prefill
from tui.chat.turn import Turn
from tui.chat.waiting import waiting_text
from tui.snapshot import Connection, Snapshot

NOTES = Attachment(name="notes.txt", text="some notes")


def session() -> Session:
    return Session(conversation(), lambda: NOW_S)


def ended(turn: Turn, outcome: Outcome, text: str = "") -> Turn:
    turn.answer.outcome, turn.answer.text = outcome, text
    return turn


def texts(it: Session) -> list[str]:
    return [message.text for message in it.messages]


@pytest.mark.parametrize("outcome", ["failed", "stopped"])
def test_what_was_asked_in_vain_is_given_back_with_its_files(outcome: Outcome) -> None:
    it = session()
    it.attachments = [NOTES]
    turn = it.ask("Why?")
    assert it.attachments == []
    assert it.end(ended(turn, outcome)) == "Why?"
    assert it.attachments == [NOTES]
    it.end(ended(it.ask("Why?"), "complete", "Because."))
    assert texts(it) == ["Why?", "Because."]
    assert len(it.conversation.messages) == 2


def test_what_is_asked_instead_of_it_stands_in_its_place() -> None:
    it = session()
    it.end(ended(it.ask("Why"), "failed"))
    it.end(ended(it.ask("Why not?"), "complete", "Because."))
    assert texts(it) == ["Why not?", "Because."]
    assert it.conversation.wire_messages(it.messages[0]) == [{"role": "user", "content": "Why not?"}]


def test_an_answer_of_which_something_came_is_kept_beside_the_next() -> None:
    it = session()
    assert it.end(ended(it.ask("Why?"), "failed", "Half an")) == ""
    question = it.messages[0]
    it.end(ended(it.answer(question), "complete", "Because."))
    assert [m.text for m in it.conversation.siblings(it.messages[1])] == ["Half an", "Because."]


def test_files_of_an_edited_question_go_with_it_and_are_left_with_it() -> None:
    it = session()
    it.attachments = [NOTES]
    it.end(ended(it.ask("Why?"), "complete", "Because."))
    question = it.messages[0]
    assert it.edit(question) == "Why?"
    assert it.attachments == [NOTES]
    it.leave()
    assert it.attachments == []
    assert texts(it) == ["Why?", "Because."]


def test_a_branch_shows_what_it_follows() -> None:
    it = session()
    it.end(ended(it.ask("One"), "complete", "1"))
    first = it.messages[1]
    it.end(ended(it.ask("Two"), "complete", "2"))
    it.branch(first)
    assert texts(it) == ["One", "1"]
    it.end(ended(it.ask("Other"), "complete", "3"))
    assert texts(it) == ["One", "1", "Other", "3"]


def snapshot(*statuses: object) -> Snapshot:
    return Snapshot(
        Connection("http://x", is_first=False),
        status=sample.status(models=list(statuses)),
        models=sample.models(),
    )


def test_models_are_told_with_their_state_and_context() -> None:
    loading = sample.model_status(name="large", version="333333333333", state="loading", load_ratio=0.25)
    small, large = models(snapshot(sample.model_status(), loading))
    assert (small.name, small.state, small.n_ctx, small.is_default) == ("small", "ready", 8192, True)
    assert (large.state, large.n_ctx, large.load_ratio) == ("loading 25%", 32768, 0.25)


@pytest.mark.parametrize("reference", [None, "small", "acme/small", "small@111111111111"])
def test_a_model_is_known_by_all_its_names(reference: str | None) -> None:
    found = model_asked(snapshot(sample.model_status()), reference)
    assert found is not None
    assert (found.name, found.n_ctx) == ("small", 8192)


def test_a_model_s_adapters_can_be_chosen_beside_it() -> None:
    adapters = [
        AdapterInfo(name="small:tidy", scale=1.0, problem=None),
        AdapterInfo(name="small:gone", scale=1.0, problem="its file is not there"),
    ]
    known = replace(
        snapshot(sample.model_status()),
        models=ModelList(models=[sample.version(is_current=True, is_default=True, adapters=adapters)]),
    )
    whole, tidy, gone = models(known)
    assert (tidy.name, tidy.state, tidy.n_ctx, tidy.is_default) == ("small:tidy", whole.state, whole.n_ctx, False)
    assert (gone.name, gone.state) == ("small:gone", "its file is not there")
    assert {name: model_asked(known, name) for name in ("small:tidy", "acme/small:tidy")} == {
        "small:tidy": tidy,
        "acme/small:tidy": tidy,
    }


def test_a_model_that_writes_no_text_is_not_there_to_chat_with() -> None:
    embedding = sample.version(name="vectors", is_current=True, kind="embedding")
    known = replace(snapshot(), models=ModelList(models=[sample.version(is_current=True), embedding]))
    assert [model.name for model in models(known)] == ["small"]


def test_what_is_not_known_of_a_model_is_not_made_up() -> None:
    found = model_asked(snapshot(), "other")
    assert found is not None
    assert (found.name, found.state, found.n_ctx) == ("other", "", None)
    assert model_asked(Snapshot(Connection("http://x")), None) is None


def test_what_is_said_while_one_waits() -> None:
    turn = Turn(reply(conversation(), ask(conversation(), "q"), "", outcome="running"), clock=lambda: 0.0)
    assert waiting_text(turn, None, None) == "Waiting for the first token (0 s)"
    assert waiting_text(turn, None, sample.request(queue_place=2)) == "Waiting in the queue, place 2 (0 s)"
    turn.take(Prefill(0, 0))
    assert waiting_text(turn, None, None) == "Waiting for the first token (0 s)"
    turn.take(Prefill(1000, 3000))
    assert waiting_text(turn, None, None) == "Reading the prompt: 1,000 of 3,000 tokens, 33% (0 s)"


async def test_a_library_keeps_only_what_holds_something(tmp_path: Path) -> None:
    library = Library(ConversationStore(tmp_path), lambda: NOW_S)
    empty = library.new()
    await library.save(empty)
    assert await library.summaries() == []
    empty.conversation.draft = "begun"
    await library.save(empty)
    (summary,) = await library.summaries()
    assert await library.open(summary.id) is empty
    library.close(empty)
    assert (await library.open(summary.id)).conversation == empty.conversation
    await library.rename(summary.id, "Named")
    await library.delete(summary.id)
    await library.save(empty)  # an answer that came late brings nothing back
    assert library.save_now() == []
    assert await library.summaries() == []
    with pytest.raises(StoreError):
        await library.open(summary.id)


async def test_a_new_conversation_is_set_up_as_the_one_before(tmp_path: Path) -> None:
    library = Library(ConversationStore(tmp_path), lambda: NOW_S)
    like = conversation(model="small", system="Be brief.", sampling={"seed": 1}, draft="x")
    made = library.new(like).conversation
    assert (made.model, made.system, made.sampling, made.draft) == ("small", "Be brief.", {"seed": 1}, "")
    assert made.sampling is not like.sampling


async def test_a_disk_that_takes_nothing_is_told_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    library = Library(ConversationStore(tmp_path / "file" / "c"), lambda: NOW_S)
    library.new().conversation.draft = "begun"
    (problem,) = library.save_now()
    assert "can't be written" in problem
