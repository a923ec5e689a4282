"""Choosing which version of a model is current."""

from __future__ import annotations

import contextlib

from appliance.errors import ConfigError, ModelNotFound
from appliance.models.lock import Entry, HubSource, Version
from appliance.models.store import ModelStore, StoredModel
from appliance.state.current import CurrentVersions


def current_version(entry: Entry, store: ModelStore, versions: CurrentVersions) -> StoredModel | None:
    """The version that was chosen, else the newest that is stored; None if none is.

    Raises:
        ConfigError: its file has other bytes than the lock says.
    """
    choice = versions.get(entry.name)
    return store.find(entry, choice.current if choice is not None else None)


def how_to_get(entry: Entry) -> str:
    """What to do about a model that isn't stored."""
    verb = "build" if isinstance(entry.versions[0].source, HubSource) else "fetch"
    return f"run `appliance models {verb} {entry.name}`"


def meant_version(entry: Entry, wanted: str, store: ModelStore, versions: CurrentVersions) -> StoredModel:
    """A version by the beginning of its hash, by ``previous``, or by nothing for the newest.

    Raises:
        ModelNotFound: there is no such version, or it isn't stored.
        ConfigError: its file has other bytes than the lock says.
    """
    choice = versions.get(entry.name)
    if wanted == "previous":
        if choice is None or choice.previous is None:
            raise ModelNotFound(f"{entry.name} has no previous version: none was chosen before", param="version")
        wanted = choice.previous
    version = entry.version(wanted or None)
    stored = store.find_version(entry, version)
    if stored is None:
        raise ModelNotFound(
            f"{entry.name}@{version.short} is not stored; build it with: "
            f"appliance models build {entry.name}@{version.short}",
            param="version",
        )
    return stored


def choose_version(entry: Entry, wanted: str, store: ModelStore, versions: CurrentVersions) -> Version:
    """Makes a version current; see :func:`meant_version`.

    Raises:
        ModelNotFound: there is no such version, or it isn't stored.
        ConfigError: its file has other bytes than the lock says, or the choice can't be written.
    """
    stored = meant_version(entry, wanted, store, versions)
    choice = versions.get(entry.name)
    before = choice.current if choice is not None else None
    # One that is damaged can be left, and is nothing to go back to unless it was chosen.
    with contextlib.suppress(ConfigError):
        current = current_version(entry, store, versions)
        before = current.record.gguf_sha256 if current is not None else before
    versions.choose(entry.name, stored.record.gguf_sha256, instead_of=before)
    return entry.version(stored.record.gguf_sha256)
