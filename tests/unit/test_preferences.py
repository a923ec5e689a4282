from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.errors import ConfigError
from appliance.state.preferences import Preferences


def test_without_a_file_nothing_was_decided(tmp_path: Path) -> None:
    preferences = Preferences(tmp_path)
    assert (preferences.default, preferences.is_pinned("a")) == (None, None)


def test_what_was_decided_is_there_for_the_next_one(tmp_path: Path) -> None:
    first = Preferences(tmp_path)
    first.set_default("a")
    first.pin("b", is_pinned=True)
    first.pin("c", is_pinned=False)
    for preferences in (first, Preferences(tmp_path)):
        assert preferences.default == "a"
        assert [preferences.is_pinned(name) for name in "abc"] == [None, True, False]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"default": 3}', '{"pinned": {"a": "yes"}}', "\0\xff"])
def test_a_damaged_file_names_itself_and_the_remedy(tmp_path: Path, content: str) -> None:
    (tmp_path / "preferences.json").write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"preferences\.json can't be read: .*; delete it"):
        Preferences(tmp_path)


def test_what_a_later_release_wrote_beside_it_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "preferences.json").write_text('{"default": "a", "new": 1}')
    assert Preferences(tmp_path).default == "a"


def test_what_can_not_be_written_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    preferences = Preferences(tmp_path / "gone")
    with pytest.raises(ConfigError, match="gone"):
        preferences.set_default("a")
    assert preferences.default is None


def test_nothing_is_left_beside_it(tmp_path: Path) -> None:
    Preferences(tmp_path).set_default("a")
    assert os.listdir(tmp_path) == ["preferences.json"]
