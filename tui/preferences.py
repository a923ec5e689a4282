"""The user's own file, ``tui.toml``: the theme, and keys for what they do.

theme = "high-contrast"

[keys]
"chat.stop" = "ctrl+x"
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path


class PreferencesError(Exception):
    """What is wrong with the file, as one sentence."""


@dataclass(frozen=True, slots=True)
class Preferences:
    """``keys`` are by the id of what they do. ``path``: where they were read, and where the theme is kept."""

    path: Path | None = None
    theme: str | None = None
    keys: dict[str, str] = field(default_factory=dict)


def default_path() -> Path:
    """$XDG_CONFIG_HOME/llm-appliance/tui.toml."""
    home = os.environ.get("XDG_CONFIG_HOME", "")
    # The specification wants a relative one to be ignored.
    folder = Path(home) if Path(home).is_absolute() else Path.home() / ".config"
    return folder / "llm-appliance" / "tui.toml"


def load(path: Path) -> Preferences:
    """Those in the file, or none if it isn't there. Raises :class:`PreferencesError`."""
    try:
        found = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return Preferences(path)
    except (OSError, ValueError) as error:
        raise PreferencesError(f"{path} can't be read: {error}.") from None
    if unknown := sorted(found.keys() - {"theme", "keys"}):
        raise PreferencesError(f"{path}: {unknown[0]} is not known; there are theme and [keys].")
    theme, keys = found.get("theme"), found.get("keys", {})
    if theme is not None and not isinstance(theme, str):
        raise PreferencesError(f"{path}: theme = {theme!r} is no name.")
    if not isinstance(keys, dict):
        raise PreferencesError(f'{path}: keys is no table, such as [keys] with "quit" = "ctrl+q" below it.')
    for name, key in keys.items():
        if not isinstance(key, str):
            raise PreferencesError(f'{path}: the key of "{name}" is no text such as "ctrl+x".')
    return Preferences(path, theme, keys)


def save_theme(path: Path, theme: str) -> None:
    """Writes it into the file, and leaves all else in it as it is. Raises :class:`PreferencesError`."""
    import tomlkit  # it costs the start what it is seldom needed for

    try:
        document = tomlkit.parse(path.read_text()) if path.exists() else tomlkit.document()
        document["theme"] = theme
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_text(tomlkit.dumps(document))
        os.replace(part, path)
    except (OSError, ValueError) as error:
        raise PreferencesError(f"The theme can't be kept in {path}: {error}.") from None
