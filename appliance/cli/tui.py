"""``appliance tui``: the terminal UI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.options import Url
from appliance.errors import ConfigError


def tui(
    url: Url = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the admin token. [default: APPLIANCE_API_KEY, then the token in the state folder]"
        ),
    ] = None,
) -> None:
    """Chat, switch models and watch a running server, in the terminal; also from another machine."""
    from appliance import settings
    from appliance.cli.target import default_url, key

    try:
        from tui.app import run
        from tui.client import Target
        from tui.preferences import PreferencesError
    except ModuleNotFoundError as error:
        if error.name != "textual":
            raise
        raise ConfigError("the terminal UI wants textual: pip install 'llm-appliance[tui]'") from None
    config = settings.load()
    target = Target(url or default_url(config), _read(key_file) if key_file else key(config), config.tls_cert)
    try:
        run(target)
    except PreferencesError as error:
        raise ConfigError(str(error)) from None


def _read(path: Path) -> str:
    try:
        found = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--key-file {path} can't be read: {error}") from None
    if not found:
        raise ConfigError(f"--key-file {path} is empty")
    return found
