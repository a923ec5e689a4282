"""The small model that guesses for another one, as its settings name it."""

from __future__ import annotations

from appliance.errors import ConfigError, ModelNotFound
from appliance.models.gguf_header import TEXT
from appliance.models.lock import Entry, Lock, Version
from appliance.models.store import ModelStore, StoredModel
from appliance.service.versions import current_version, how_to_get
from appliance.settings import ModelSettings, Settings
from appliance.state.current import CurrentVersions


def draft_entry(config: Settings, lock: Lock, name: str) -> tuple[Entry, Version | None] | None:
    """The lock's entry of a model's draft model, and its version if the settings name one; None: it has none, or
    nothing is guessed.

    Raises:
        ModelNotFound: there is no such model, with the setting.
    """
    wanted = config.models.get(name, ModelSettings()).draft_model
    if wanted is None or not config.speculation:
        return None
    name_wanted, _, version = wanted.partition("@")
    try:
        entry = lock.entry(name_wanted)
        return entry, entry.version(version) if version else None
    except ModelNotFound as error:
        raise ModelNotFound(f"{_setting(config, name)}: {error.message}", param="model") from None


def draft_model(
    config: Settings, lock: Lock, stored: StoredModel, store: ModelStore, versions: CurrentVersions
) -> StoredModel | None:
    """The draft model that a model's engine is loaded with.

    Raises:
        ModelNotFound: it isn't stored, with the remedy.
        ConfigError: its file has other bytes than the lock says, or one of the two doesn't write text.
    """
    meant = draft_entry(config, lock, stored.name)
    if meant is None:
        return None
    entry, version = meant
    found = store.find_version(entry, version) if version is not None else current_version(entry, store, versions)
    setting = _setting(config, stored.name)
    if found is None:
        raise ModelNotFound(
            f"{setting}: that model is not in {config.models_dir}; {how_to_get(entry)}, or leave the setting out",
            param="model",
        )
    for model in (stored, found):
        if model.record.header.kind != TEXT:
            raise ConfigError(f"{setting}: {model.name} writes no text; leave the setting out")
    return found


def check_draft_models(config: Settings, lock: Lock) -> None:
    """Raises ConfigError if a draft model is set that there isn't."""
    for name in config.models:
        try:
            draft_entry(config, lock, name)
        except ModelNotFound as error:
            raise ConfigError(error.message) from None


def _setting(config: Settings, name: str) -> str:
    return f"models.{name}.draft_model={config.models[name].draft_model}"
