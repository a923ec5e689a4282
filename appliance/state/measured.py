"""What models took of each device when they were loaded: ``measured.json`` in the state folder."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import msgspec

from appliance import logs
from appliance.errors import ConfigError
from appliance.files import write_atomically
from appliance.hardware.estimate import RunShape
from appliance.hardware.memory_use import DeviceMemory, MemoryUse

log = logging.getLogger(__name__)

# Each takes some 300 bytes.
MAX_ENTRIES = 500


class MeasuredMemory:
    """Survives restarts. What can't be read or written costs no more than estimates in its place."""

    def __init__(self, state_dir: Path, build: str) -> None:
        """``build`` is the engine's: another one may take more or less."""
        self._path = state_dir / "measured.json"
        self._build = build
        self._found = self._read()

    def get(self, weights_sha256: str, run: RunShape) -> MemoryUse | None:
        """What a model took the last time it was run so; None: it wasn't yet."""
        return self._found.get(self._key(weights_sha256, run))

    def put(self, weights_sha256: str, run: RunShape, memory: MemoryUse) -> None:
        """The oldest entry makes way when there are too many."""
        key = self._key(weights_sha256, run)
        if self._found.pop(key, None) == memory:
            self._found[key] = memory
            return
        self._found[key] = memory
        while len(self._found) > MAX_ENTRIES:
            del self._found[next(iter(self._found))]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(self._path, msgspec.json.format(msgspec.json.encode(self._found), indent=1))
        except (OSError, ConfigError) as error:
            log.warning(logs.event("measurement_not_written", path=self._path, reason=error))

    def _key(self, weights_sha256: str, run: RunShape) -> str:
        settings = " ".join(f"{name}={value}" for name, value in msgspec.structs.asdict(run).items())
        return f"{weights_sha256} {settings} {self._build}"

    def _read(self) -> dict[str, MemoryUse]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, dict[str, DeviceMemory]])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            aside = self._path.with_name(f"{self._path.name}.damaged")
            with contextlib.suppress(OSError):
                os.replace(self._path, aside)
            log.warning(logs.event("measurements_damaged", path=self._path, kept_as=aside, reason=error))
            return {}
