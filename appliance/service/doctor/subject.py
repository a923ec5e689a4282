"""What the doctor looks at, gathered once for all checks."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil

from appliance.addresses import pid_listening_on
from appliance.engine.devices import LlamaBuild
from appliance.errors import ApplianceError, ConfigError
from appliance.hardware.machine import Machine, probe_machine
from appliance.models.lock import Entry, Lock, Version, read_lock
from appliance.models.store import ModelStore, StoredModel
from appliance.models.subprocesses import run_quick_job
from appliance.service.doctor.limit import limited
from appliance.service.draft_model import draft_model
from appliance.service.machine import folders
from appliance.settings import Settings
from appliance.state.current import CurrentVersions

T = TypeVar("T")

PROBE_LIMIT_S = 20.0
# A driver may take a minute to start many GPUs.
DEVICES_LIMIT_S = 90.0
# A file that was touched is hashed: minutes for a large one.
HASH_LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class Tools:
    """What reaches out of this process; replaced in tests."""

    probe: Callable[[Settings], Machine] = lambda config: probe_machine(folders(config))
    run_job: Callable[..., Any] = run_quick_job
    holder_of_port: Callable[[int], int | None] = pid_listening_on


class Unreadable(ApplianceError):
    """The system doesn't give it: nothing is said of what it holds."""


@dataclass(frozen=True, slots=True)
class Published:
    """A version of the lock and its published file: None if there is none, or why it can't be served."""

    entry: Entry
    version: Version
    stored: StoredModel | ApplianceError | None


@dataclass(frozen=True, slots=True)
class Subject:
    """A part that could not be had is the error that says why.

    ``default`` is the model that is served when none is named, None while it isn't stored, and ``draft`` its draft
    model, if it has one. ``running_pid`` is the appliance that holds the state folder.
    """

    config: Settings
    tools: Tools
    machine: Machine | ApplianceError
    build: LlamaBuild | ApplianceError
    lock: Lock | ApplianceError
    published: tuple[Published, ...]
    default: StoredModel | ApplianceError | None
    draft: StoredModel | ApplianceError | None = None
    running_pid: int | None = None

    @property
    def is_running(self) -> bool:
        return self.running_pid is not None

    @property
    def default_model(self) -> StoredModel | None:
        return self.default if isinstance(self.default, StoredModel) else None


def look_at(config: Settings, tools: Tools, *, serving: bool) -> Subject:
    """Raises nothing: what can't be had is told by the checks. ``serving``: this process is the appliance."""
    lock = _or_error(lambda: read_lock(config.models_lock), PROBE_LIMIT_S)
    store = ModelStore(config.models_dir, config.image_models_dir)
    published: tuple[Published, ...] = ()
    default: StoredModel | ApplianceError | None = None
    draft: StoredModel | ApplianceError | None = None
    if isinstance(lock, Lock):
        pairs = [(entry, version) for entry in lock.models for version in entry.versions]
        published = tuple(_published(store, entry, version) for entry, version in pairs)
        default = found = _or_error(lambda: _default(config, lock, store), HASH_LIMIT_S)
        if isinstance(found, StoredModel):
            versions = CurrentVersions(config.state_dir)
            draft = _or_error(lambda: draft_model(config, lock, found, store, versions), HASH_LIMIT_S)
    return Subject(
        config=config,
        tools=tools,
        machine=_or_error(lambda: tools.probe(config), PROBE_LIMIT_S),
        build=_or_error(
            lambda: msgspec.convert(tools.run_job("devices", {}, timeout_s=DEVICES_LIMIT_S), LlamaBuild),
            2 * DEVICES_LIMIT_S,
        ),
        lock=lock,
        published=published,
        default=default,
        draft=draft,
        running_pid=os.getpid() if serving else _running_pid(config.state_dir),
    )


def _published(store: ModelStore, entry: Entry, version: Version) -> Published:
    return Published(entry, version, _or_error(lambda: store.find_version(entry, version), HASH_LIMIT_S))


def _default(config: Settings, lock: Lock, store: ModelStore) -> StoredModel | None:
    entry = lock.entry(config.model)
    choice = CurrentVersions(config.state_dir).get(entry.name)
    return store.find(entry, choice.current if choice is not None else None)


def _or_error(work: Callable[[], T], limit_s: float) -> T | ApplianceError:
    try:
        return limited(work, limit_s=limit_s)
    except ApplianceError as error:
        return error
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        return Unreadable(f"{where}{error.strerror or error}")
    except (ValueError, LookupError) as error:
        return ConfigError(f"{type(error).__name__}: {error}")


def _running_pid(state_dir: Path) -> int | None:
    """The appliance that wrote its number into the state folder, if it is still there."""
    try:
        pid = int((state_dir / "lock").read_text())
    except (OSError, ValueError):
        return None
    return pid if psutil.pid_exists(pid) else None
