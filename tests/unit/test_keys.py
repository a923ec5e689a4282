from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from appliance.errors import ConfigError
from appliance.state.keys import AdminToken, ApiKey, KeyFile

KEY = "sk-0123456789abcdef"


def key_file(tmp_path: Path, text: str) -> KeyFile:
    path = tmp_path / "keys"
    path.write_text(text)
    return KeyFile(path)


def test_a_line_is_a_key_with_its_options(tmp_path: Path) -> None:
    keys = key_file(tmp_path, f"\n# comment\n{KEY} name=app weight=2.5 scope=team # behind\n")
    assert keys.find(KEY) == ApiKey(f"key:{sha256(KEY.encode()).hexdigest()}", "app", "scope:team", 2.5)
    assert keys.find(KEY + "x") is None


def test_keys_without_options_have_names_and_scopes_of_their_own(tmp_path: Path) -> None:
    keys = key_file(tmp_path, f"{KEY}\n{KEY}2\n")
    first, second = keys.find(KEY), keys.find(KEY + "2")
    assert first is not None
    assert second is not None
    assert (first.name, second.name) == ("line-1", "line-2")
    assert first.scope != second.scope


def test_a_key_takes_nothing_from_one_that_stood_at_its_place(tmp_path: Path) -> None:
    before = key_file(tmp_path, f"{KEY}\n").find(KEY)
    keys = key_file(tmp_path, f"{KEY}2\n{KEY} # moved\n")
    after, other = keys.find(KEY), keys.find(KEY + "2")
    assert before is not None
    assert after is not None
    assert other is not None
    assert (before.id, before.scope) == (after.id, after.scope)
    assert not {other.id, other.scope} & {before.id, before.scope}


def test_a_scope_that_is_named_like_a_keys_own_is_another(tmp_path: Path) -> None:
    own = key_file(tmp_path, f"{KEY}\n").find(KEY)
    assert own is not None
    named = key_file(tmp_path, f"{KEY}2 scope={own.scope}\n").find(KEY + "2")
    assert named is not None
    assert named.scope != own.scope


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no key"),
        ("# nothing\n", "holds no key"),
        ("short\n", "line 1: a key has at least 16"),
        (f"{KEY}\n{KEY}\n", "line 2: this key stands in the file twice"),
        (f"{KEY} colour=red\n", "line 1: 'colour': want name="),
        (f"{KEY} weight=heavy\n", "weight=heavy: want a number"),
        (f"{KEY} weight=0\n", "weight=0: want a number"),
        (f"{KEY} weight=nan\n", "weight=nan: want a number"),
    ],
)
def test_a_bad_file_names_the_line_and_not_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        key_file(tmp_path, text)
    assert KEY not in caught.value.message


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        KeyFile(tmp_path / "none")


def test_an_empty_admin_token_is_not_a_token(tmp_path: Path) -> None:
    (tmp_path / "admin-token").write_text("\n")
    with pytest.raises(ConfigError, match="holds no token"):
        AdminToken(tmp_path)
