"""Choosing which version of a model is current."""

from __future__ import annotations

from appliance.errors import ConfigError
from appliance.models.lock import Entry, Version
from appliance.models.store import ModelStore, StoredModel
from appliance.state.current import CurrentVersions


def current_version(entry: Entry, store: ModelStore, versions: CurrentVersions) -> StoredModel | None:
    """The version that was chosen, else the newest that is stored; None if none is.

    Raises:
        ConfigError: its file has other bytes than the lock says.
    """
    choice = versions.get(entry.name)
    return store.find(entry, choice.current if choice is not None else None)


def choose_version(entry: Entry, wanted: str, store: ModelStore, versions: CurrentVersions) -> Version:
    """Makes a version current: by the beginning of its hash, ``previous``, or nothing for the newest.

    Raises:
        ModelNotFound: there is no such version.
        ConfigError: it isn't stored, there is no previous one, or the choice can't be written.
    """
    choice = versions.get(entry.name)
    if wanted == "previous":
        if choice is None or choice.previous is None:
            raise ConfigError(f"{entry.name} has no previous version: none was chosen before")
        wanted = choice.previous
    version = entry.version(wanted or None)
    stored = store.find_version(entry, version)
    if stored is None:
        raise ConfigError(
            f"{entry.name}@{version.short} is not stored; build it with: "
            f"appliance models build {entry.name}@{version.short}"
        )
    before = current_version(entry, store, versions)
    versions.choose(
        entry.name, stored.record.gguf_sha256, instead_of=before.record.gguf_sha256 if before is not None else None
    )
    return version
