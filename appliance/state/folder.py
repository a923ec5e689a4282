"""The state folder: where one running appliance keeps what it remembers."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from appliance.errors import ConfigError


class StateFolder:
    """Holds the folder for this process while it is open; use with ``with``."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError if another appliance holds it, or it can't be written."""
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = (path / "lock").open("a+")
        except OSError as error:
            raise ConfigError(f"state_dir={path} can't be used: {error.strerror}; set APPLIANCE_STATE_DIR") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            pid = self._file.read().strip() or "unknown"
            self._file.close()
            raise ConfigError(
                f"another appliance (pid {pid}) uses the state folder {path}; stop it (kill {pid}), "
                "or set APPLIANCE_STATE_DIR to another folder"
            ) from None
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()  # which unlocks it
