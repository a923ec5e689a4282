"""Conversations on the disk."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from tests.tui.talk import NOW_S, ask, conversation, reply, texts
from tui.chat.conversation import Conversation
from tui.chat.store import ConversationStore, StoreError, default_folder, matching


@pytest.fixture
def store(tmp_path: Path) -> ConversationStore:
    return ConversationStore(tmp_path / "conversations")


def talk_about(what: str, changed_s: float = NOW_S) -> Conversation:
    talk = conversation(changed_s=changed_s)
    reply(talk, ask(talk, what), f"All about {what}")
    return talk


def test_what_is_saved_comes_back_as_it_was(store: ConversationStore) -> None:
    talk = talk_about("Größe 🦀")
    store.save(talk)
    assert ConversationStore(store.folder).load(talk.id) == talk
    (path,) = store.folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert store.folder.stat().st_mode & 0o777 == 0o700


def test_the_latest_comes_first_and_texts_are_found(store: ConversationStore) -> None:
    for number, what in enumerate(["apples", "pears", "more apples"]):
        store.save(talk_about(what, NOW_S + number))
    summaries = store.summaries()
    assert [summary.title for summary in summaries] == ["more apples", "pears", "apples"]
    assert [summary.title for summary in matching(summaries, "ABOUT apples")] == ["more apples", "apples"]
    assert matching(summaries, "apples pears") == []
    assert matching(summaries, " ") == summaries


def test_a_change_is_seen_and_a_deleted_one_is_gone(store: ConversationStore) -> None:
    talk = talk_about("apples")
    store.save(talk)
    assert len(store.summaries()) == 1
    store.rename(talk.id, " Fruit ")
    assert [summary.title for summary in store.summaries()] == ["Fruit"]
    store.delete(talk.id)
    assert store.summaries() == []
    with pytest.raises(StoreError, match="not there any more"):
        store.load(talk.id)


def test_a_folder_that_is_not_there_holds_nothing(store: ConversationStore) -> None:
    assert store.summaries() == []
    assert not store.folder.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\xff",
        b"[]",
        b"{}",
        b'{"version": "1"}',
        b'{"version": 1}',
        b"[" * 100_000,
        b'{"version": 1, "created_s": 0, "changed_s": 0, "messages": [{"kind": "answer", "parent": "x"}]}',
    ],
)
def test_a_damaged_file_is_set_aside_and_said(store: ConversationStore, content: bytes) -> None:
    store.save(talk_about("apples"))
    for _ in range(2):
        path = store.folder / "00000000000000aa.json"
        path.write_bytes(content)
        assert len(store.summaries()) == 1
        assert not path.exists()
    assert (store.folder / "00000000000000aa.damaged").read_bytes() == content
    assert (store.folder / "00000000000000aa.2.damaged").exists()
    assert (
        store.notes[0]
        == "The conversation 00000000000000aa.json is damaged; it was set aside as 00000000000000aa.damaged."
    )


def test_a_newer_version_is_left_alone(store: ConversationStore) -> None:
    talk = talk_about("apples")
    store.save(talk)
    path = store.folder / f"{talk.id}.json"
    newer = json.dumps(json.loads(path.read_text()) | {"version": 2})
    path.write_text(newer)
    assert store.summaries() == []
    with pytest.raises(StoreError, match="newer version"):
        store.save(talk)
    assert path.read_text() == newer
    store.summaries()
    assert len(store.notes) == 1


def test_other_files_are_no_conversations(store: ConversationStore) -> None:
    store.save(talk_about("apples"))
    (store.folder / "package.json").write_text("{}")
    assert len(store.summaries()) == 1
    assert (store.folder / "package.json").exists()


def test_what_another_terminal_added_is_kept(store: ConversationStore) -> None:
    talk = talk_about("apples")
    store.save(talk)
    elsewhere = ConversationStore(store.folder)
    theirs = elsewhere.load(talk.id)
    ask(theirs, "asked there")
    elsewhere.save(theirs)
    ask(talk, "asked here")
    store.save(talk)
    stored = store.load(talk.id)
    assert texts(stored)[-1] == "asked here"
    assert {"asked here", "asked there"} <= {message.text for message in stored.messages}


def test_an_answer_that_was_running_when_all_was_killed_counts_as_stopped(store: ConversationStore) -> None:
    talk = conversation()
    reply(talk, ask(talk, "q"), "half an ans", outcome="running")
    store.save(talk)
    answer = ConversationStore(store.folder).load(talk.id).path[-1]
    assert (answer.text, answer.outcome) == ("half an ans", "stopped")


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(
    store: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = talk_about("apples")
    store.save(talk)
    (path,) = store.folder.iterdir()
    before = path.read_bytes()
    ask(talk, "more")
    monkeypatch.setattr("os.fsync", _full)
    with pytest.raises(StoreError, match="can't be written: No space left on device"):
        store.save(talk)
    assert [path.read_bytes() for path in store.folder.iterdir()] == [before]


def _full(fd: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_folder_that_can_t_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="can't be written: Not a directory"):
        ConversationStore(tmp_path / "file" / "c").save(talk_about("apples"))


def test_the_folder_is_that_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "llm-appliance" / "conversations"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_folder() == tmp_path / ".local" / "share" / "llm-appliance" / "conversations"
