"""The tree of a conversation, and what is sent, shown and exported of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.tui.talk import NOW_S, ask, conversation, reply, texts
from tui.chat.attachments import MAX_BYTES, AttachmentRefused, pasted, read
from tui.chat.code_blocks import CodeBlock, code_blocks
from tui.chat.conversation import ROOT, Answer, Attachment, Conversation, Figures, Question, ToolCall
from tui.chat.display import cut, shown
from tui.chat.export import ExportRefused, export, suggested_name, to_markdown
from tui.chat.figures import context_use, figures_text
from tui.chat.sampling import KNOBS, checked
from tui.chat.turn import request_body


def test_a_second_answer_keeps_the_first_and_all_that_follows_it() -> None:
    talk = conversation()
    first = ask(talk, "q1")
    old = reply(talk, first, "old")
    ask(talk, "q2")
    new = reply(talk, first, "new")
    assert texts(talk) == ["q1", "new"]
    assert talk.switch(new, 1) is old
    assert texts(talk) == ["q1", "old", "q2"]
    assert talk.switch(old, -1) is new


def test_an_edited_question_stands_beside_the_old_one() -> None:
    talk = conversation()
    first = ask(talk, "q1")
    reply(talk, first, "a1")
    edited = ask(talk, "q1, better", parent=first.parent)
    assert texts(talk) == ["q1, better"]
    assert talk.siblings(edited) == [first, edited]
    talk.switch(edited, 1)
    assert texts(talk) == ["q1", "a1"]


def test_what_was_chosen_deeper_down_is_remembered() -> None:
    talk = conversation()
    first = ask(talk, "q1")
    answer = reply(talk, first, "a1")
    ask(talk, "left")
    left_or_right = ask(talk, "right", parent=answer.id)
    talk.switch(left_or_right, 1)
    other = reply(talk, first, "a2")
    talk.switch(other, 1)
    assert texts(talk) == ["q1", "a1", "left"]


@given(st.lists(st.tuples(st.sampled_from(["ask", "reply", "switch"]), st.integers(0, 30)), max_size=30))
def test_no_message_is_ever_lost_and_the_path_is_always_whole(steps: list[tuple[str, int]]) -> None:
    talk = conversation()
    added: list[str] = []
    for what, number in steps:
        message = talk.messages[number % len(talk.messages)] if talk.messages else None
        if what == "ask" and not isinstance(message, Question):
            added.append(ask(talk, str(number), parent=message.id if message else ROOT).id)
        elif what == "reply" and isinstance(message, Question):
            added.append(reply(talk, message, str(number)).id)
        elif what == "switch" and message is not None:
            talk.switch(message, number - 15)
    assert [message.id for message in talk.messages] == added
    path = talk.path
    if path:
        assert talk.path_to(path[-1].id) == path
    assert Conversation.model_validate(talk.model_dump()) == talk


@pytest.mark.parametrize(
    "messages",
    [
        [{"kind": "question", "id": "a", "created_s": 0, "text": ""}] * 2,
        [{"kind": "question", "id": "a", "parent": "gone", "created_s": 0, "text": ""}],
        [{"kind": "answer", "id": "a", "parent": "a", "created_s": 0}],
        [{"kind": "question", "id": "a", "parent": "a", "created_s": 0, "text": ""}],
        [{"kind": "answer", "id": "a", "parent": "", "created_s": 0}],
    ],
)
def test_what_is_no_tree_is_refused(messages: list[dict[str, object]]) -> None:
    with pytest.raises(ValidationError):
        conversation(messages=messages)


def test_the_request_holds_the_path_and_only_what_is_set() -> None:
    talk = conversation(system="Be brief.", model="small", sampling={"temperature": 0, "seed": 7})
    first = ask(talk, "q1")
    reply(talk, first, "a1", reasoning="hm")
    second = ask(talk, "q2")
    second.attachments.append(Attachment(name="a.md", text="```\ncode\n```\n"))
    assert request_body(talk, second) == {
        "model": "small",
        "temperature": 0,
        "seed": 7,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "q1"},
            {"role": "assistant", "content": "a1"},
            {"role": "user", "content": "q2\n\nFile a.md:\n````\n```\ncode\n```\n````"},
        ],
    }
    plain = conversation()
    assert request_body(plain, ask(plain, "q")) == {"messages": [{"role": "user", "content": "q"}]}


def test_an_answer_in_which_nothing_came_is_not_sent() -> None:
    talk = conversation()
    reply(talk, ask(talk, "q1"), "", outcome="failed")
    assert [message["content"] for message in talk.wire_messages(ask(talk, "q2"))] == ["q1", "q2"]


def test_the_title_is_what_was_asked_first() -> None:
    talk = conversation()
    assert talk.shown_title == "New conversation"
    ask(talk, "\n  Why " + "very " * 30)
    assert talk.shown_title.startswith("Why very")
    assert len(talk.shown_title) <= 60
    talk.title = "Named"
    assert talk.shown_title == "Named"


KNOB = {knob.name: knob for knob in KNOBS}


@pytest.mark.parametrize(
    ("name", "typed", "value"),
    [("temperature", " 0.5 ", 0.5), ("top_k", "40", 40), ("seed", "-1", -1), ("max_tokens", "", None)],
)
def test_what_is_typed_becomes_a_number(name: str, typed: str, value: float | None) -> None:
    assert checked(KNOB[name], typed) == value


@pytest.mark.parametrize(
    ("name", "typed", "sentence"),
    [
        ("temperature", "hot", "Want a number, such as 0.7."),
        ("temperature", "3", "Want a number less than or equal to 2."),
        ("temperature", "nan", "Want a number, such as 0.7."),
        ("top_p", "0", "Want a number greater than 0."),
        ("top_k", "1.5", "Want a whole number, such as 40."),
        ("max_tokens", "0", "Want a number greater than or equal to 1."),
        ("seed", "1" * 30, "Want a number less than 9223372036854775808."),
    ],
)
def test_what_the_server_would_refuse_is_refused_as_it_is_typed(name: str, typed: str, sentence: str) -> None:
    with pytest.raises(ValueError, match="Want") as raised:
        checked(KNOB[name], typed)
    assert str(raised.value) == sentence


def test_figures_in_words() -> None:
    figures = Figures(
        prompt_tokens=1204,
        completion_tokens=412,
        cached_tokens=96,
        ttft_s=0.35,
        tokens_per_s=42.08,
        seconds=9.8,
        cache="miss",
    )
    answer = Answer(parent="q", created_s=NOW_S, text="a", outcome="complete", figures=figures)
    assert figures_text(answer) == (
        "42.1 tokens/s · first after 0.35 s · 1,204 + 412 tokens in 9.8 s, 96 reused · response cache: miss"
    )
    answer.figures = Figures(
        prompt_tokens=9,
        completion_tokens=1,
        cached_tokens=9,
        ttft_s=0.001,
        tokens_per_s=9e6,
        cache="hit",
        cache_age_s=180,
    )
    answer.finish_reason = "length"
    assert figures_text(answer) == (
        "cut off at the token limit · first after 0.00 s · 9 + 1 tokens · response cache: hit, 3 min old"
    )
    stopped = Answer(parent="q", created_s=NOW_S, text="a", outcome="stopped")
    assert figures_text(stopped) == "stopped"
    assert figures_text(Answer(parent="q", created_s=NOW_S)) == ""


def test_the_context_use_is_that_of_the_latest_answer_with_figures() -> None:
    talk = conversation()
    assert context_use(talk, 100).ratio is None
    reply(talk, ask(talk, "q"), "a", figures={"prompt_tokens": 20, "completion_tokens": 5})
    reply(talk, ask(talk, "q"), "", outcome="failed")
    use = context_use(talk, 100)
    assert (use.used_tokens, use.ratio) == (25, 0.25)
    assert context_use(talk, None).ratio is None


def test_code_blocks_are_found_also_in_lists() -> None:
    found = code_blocks("Do\n```python\nprint(1)\n```\n- a\n  ```\n  x\n  ```\nand `this`, or\n\n```sh\nnot closed")
    assert found == [CodeBlock("python", "print(1)\n"), CodeBlock("", "x\n"), CodeBlock("sh", "not closed")]


def test_what_a_terminal_would_obey_is_shown_and_not_obeyed() -> None:
    assert shown("a\x1b[2J\tb\r\nc\u2028d\x9b1m") == "a␛[2J    b\nc\nd\ufffd1m"


def test_what_is_cut_says_how_much() -> None:
    assert cut("abcdef", 3) == "abc… (3 more characters)"
    assert cut("abc", 3) == "abc"


def test_a_text_file_is_attached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "notes.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    assert read(" ~/notes.txt ") == Attachment(name="notes.txt", text="one\ntwo\n")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.png", b"\x89PNG\0\x01", "a.png is no text in UTF-8; only text files can be attached."),
        ("b.txt", b"caf\xe9", "b.txt is no text in UTF-8; only text files can be attached."),
        ("c.log", b"x" * (MAX_BYTES + 1), "c.log has 512 KiB; at most 512 KiB can be attached."),
        ("d.log", b"x" * (3 << 20), "d.log has 3,072 KiB; at most 512 KiB can be attached."),
        ("e.txt", b" \n", "e.txt is empty."),
    ],
)
def test_what_is_no_text_or_too_large_is_refused(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AttachmentRefused) as raised:
        read(str(tmp_path / name))
    assert str(raised.value) == sentence


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for typed, words in (
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "no ordinary file"),
        (tmp_path / "x", "No such"),
    ):
        with pytest.raises(AttachmentRefused, match=words):
            read(str(typed))
    with pytest.raises(AttachmentRefused, match="can't be read"):
        read("a\0b")
    with pytest.raises(AttachmentRefused, match="at most"):
        pasted("x" * (MAX_BYTES + 1), 1)


def test_the_markdown_has_all_that_is_followed() -> None:
    talk = conversation(system="Be brief.", title="On *stars*")
    question = ask(talk, "Why?")
    reply(talk, question, "old")
    reply(
        talk,
        question,
        "Because.",
        model="small",
        reasoning="Think.",
        tool_calls=[ToolCall(name="look", arguments="{}")],
        figures={"ttft_s": 0.5},
    )
    assert to_markdown(talk) == (
        "# On *stars*\n\n2026-01-02 03:04 UTC\n\n> System prompt: Be brief.\n\n## Question\n\nWhy?\n\n## small\n\n"
        "<details><summary>Reasoning</summary>\n\nThink.\n\n</details>\n\nBecause.\n\nTool call: `look`\n\n"
        "```json\n{}\n```\n\n*first after 0.50 s*\n"
    )


def test_an_export_never_writes_over_a_file(tmp_path: Path) -> None:
    talk = conversation()
    reply(talk, ask(talk, "What / is: this?"), "A half \ud800.")
    assert suggested_name(talk) == "What-is-this.md"
    written = export(talk, str(tmp_path / "a.md"))
    assert "A half ?." in written.read_text()
    assert json.loads(export(talk, str(tmp_path / "a.JSON")).read_text())["version"] == 1
    for name, words in (("a.md", "is there already"), ("a.txt", "must end in"), ("no/a.md", "can't be written")):
        with pytest.raises(ExportRefused, match=words):
            export(talk, str(tmp_path / name))
    assert written.stat().st_mode & 0o777 == 0o600
