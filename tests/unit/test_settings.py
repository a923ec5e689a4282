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
        ("[models.a]\nn_ctx = 3", "models.a.n_ctx=3 in appliance.toml: want greater than or equal to 64"),
        ("[models.a]\nttl = 3", "models.a.ttl in appliance.toml: there is no such setting; did you mean ttl_s?"),
        ("[models.a]\ntype_k = 'q2'", "models.a.type_k=q2 in appliance.toml: want 'f32', "),
        ("[models.a]\naliases = 'x'", "models.a.aliases=x in appliance.toml: want a valid list"),
        ("[models.a]\naliases = ['x@y']", "models.a.aliases.0=x@y in appliance.toml: want a name that isn't empty"),
        ("[models.a]\naliases = ['']", "models.a.aliases.0= in appliance.toml: want a name that isn't empty"),
        (
            "n_batch = 64\n[models.a]\nmax_running = 65",
            "models.a.max_running=65 in appliance.toml: want at most n_batch, which is 64",
        ),
        (
            "[models.a.sampling]\ntemperature = 9",
            "models.a.sampling.temperature=9 in appliance.toml: want less than or equal to 2",
        ),
        (
            "[models.a.sampling]\ntemprature = 1",
            "models.a.sampling.temprature in appliance.toml: there is no such setting; did you mean temperature?",
        ),
        ("[models.a-1.5b]\nn_ctx = 64", "models.a-1.5b in appliance.toml: there is no such setting; a model's name"),
        ("models = 3", "models=3: want a valid dictionary"),
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
