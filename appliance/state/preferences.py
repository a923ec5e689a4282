"""What an administrator decided while the server ran: the default model, and which models are pinned."""

from __future__ import annotations

from pathlib import Path

import msgspec

from appliance.errors import ConfigError
from appliance.files import write_atomically


class _Content(msgspec.Struct, frozen=True, omit_defaults=True):
    default: str | None = None
    pinned: dict[str, bool] = {}


class Preferences:
    """``preferences.json`` in the state folder. It goes before the settings; what isn't in it is as they say."""

    def __init__(self, state_dir: Path) -> None:
        """Raises ConfigError if what is there can't be read."""
        self.path = state_dir / "preferences.json"
        self._content = _Content()
        try:
            self._content = msgspec.json.decode(self.path.read_bytes(), type=_Content)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(f"{self.path} can't be read: {error}; delete it to go by the settings") from None

    @property
    def default(self) -> str | None:
        """The name of the default model, if one was chosen."""
        return self._content.default

    def is_pinned(self, name: str) -> bool | None:
        """None: nobody has decided."""
        return self._content.pinned.get(name)

    def set_default(self, name: str) -> None:
        """Raises ConfigError if it can't be written."""
        self._write(msgspec.structs.replace(self._content, default=name))

    def pin(self, name: str, *, is_pinned: bool) -> None:
        """Raises ConfigError if it can't be written."""
        self._write(msgspec.structs.replace(self._content, pinned={**self._content.pinned, name: is_pinned}))

    def _write(self, content: _Content) -> None:
        write_atomically(self.path, msgspec.json.format(msgspec.json.encode(content), indent=1))
        self._content = content
