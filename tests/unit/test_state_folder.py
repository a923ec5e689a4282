from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.errors import ConfigError
from appliance.state.folder import StateFolder


def test_a_second_holder_is_told_the_first_one_s_pid(tmp_path: Path) -> None:
    with (
        StateFolder(tmp_path),
        pytest.raises(ConfigError, match=rf"pid {os.getpid()}\) uses the state folder"),
    ):
        StateFolder(tmp_path)


def test_a_folder_is_free_again_after_its_holder(tmp_path: Path) -> None:
    for _ in range(2):
        with StateFolder(tmp_path):
            pass


def test_a_folder_that_can_not_be_made_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="set APPLIANCE_STATE_DIR"):
        StateFolder(tmp_path / "file" / "state")
