"""Which version of a model is current: ``current.json`` in the state folder, so that going back needs no edit."""

from __future__ import annotations

from pathlib import Path

import msgspec

from appliance.errors import ConfigError
from appliance.files import write_atomically


class Choice(msgspec.Struct, frozen=True):
    """Hashes of GGUF files."""

    current: str
    previous: str | None = None


class CurrentVersions:
    def __init__(self, state_dir: Path) -> None:
        """Raises ConfigError if what is there can't be read."""
        self._path = state_dir / "current.json"
        self._choices: dict[str, Choice] = {}
        try:
            self._choices = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Choice])
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(f"{self._path} can't be read: {error}; delete it to take the newest versions") from None

    def get(self, name: str) -> Choice | None:
        """What was chosen for a model; None: the newest version."""
        return self._choices.get(name)

    def choose(self, name: str, sha256: str, *, instead_of: str | None) -> None:
        """``instead_of``: the version that was current until now. Raises ConfigError if it can't be written."""
        known = self._choices.get(name)
        if known is not None and known.current == sha256:
            return
        self._choices[name] = Choice(sha256, instead_of if instead_of != sha256 else None)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(
                f"state_dir={self._path.parent} can't be used: {error.strerror}; set APPLIANCE_STATE_DIR"
            ) from None
        write_atomically(self._path, msgspec.json.format(msgspec.json.encode(self._choices), indent=1))

    def forget(self, name: str) -> None:
        """The newest version is current again."""
        if self._choices.pop(name, None) is not None:
            write_atomically(self._path, msgspec.json.format(msgspec.json.encode(self._choices), indent=1))
