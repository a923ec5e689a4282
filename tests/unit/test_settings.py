from __future__ import annotations

from pathlib import Path

import pytest

from appliance import settings
from appliance.errors import ConfigError


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_defaults_listen_on_loopback() -> None:
    config = settings.load()
    assert (config.host, config.port) == ("127.0.0.1", 8080)


def test_the_command_line_goes_before_the_environment_and_the_environment_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "appliance.toml").write_text('port = 1\nn_batch = 64\nlog_level = "debug"\n')
    monkeypatch.setenv("APPLIANCE_PORT", "2")
    monkeypatch.setenv("APPLIANCE_N_BATCH", "128")
    config = settings.load(port=3, n_batch=None)
    assert (config.port, config.n_batch, config.log_level) == (3, 128, "debug")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("APPLIANCE_PORT", "eighty", "APPLIANCE_PORT=eighty: want a valid integer"),
        ("APPLIANCE_PORT", "70000", "APPLIANCE_PORT=70000: want less than or equal to 65535"),
        (
            "APPLIANCE_LOG_LEVEL",
            "loud",
            "APPLIANCE_LOG_LEVEL=loud: want 'debug', 'info', 'warning' or 'error'",
        ),
        ("APPLIANCE_PREFIX_REUSE", "perhaps", "APPLIANCE_PREFIX_REUSE=perhaps: want a valid boolean"),
        ("APPLIANCE_N_BATCH", "16", "max_running=32: want at most n_batch, which is 16"),
        ("APPLIANCE_PROT", "1", "APPLIANCE_PROT=1: there is no such setting; did you mean APPLIANCE_PORT?"),
    ],
)
def test_a_bad_variable_names_itself_its_value_and_what_is_wanted(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"^{message}"):
        settings.load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port = -1", "port=-1: want greater than or equal to 0"),
        ("prot = 1", "prot in appliance.toml: there is no such setting; did you mean port?"),
        ("port =", "appliance.toml: "),
    ],
)
def test_a_bad_file_names_the_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "appliance.toml").write_text(text)
    with pytest.raises(ConfigError, match=f"^{message}"):
        settings.load()


def test_a_named_file_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPLIANCE_CONFIG", "/nowhere/appliance.toml")
    with pytest.raises(ConfigError, match="there is no such file"):
        settings.load()
