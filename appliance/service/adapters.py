"""A model's adapters, and the names that they are asked for by: ``base:adapter``, also with an alias or a version."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from appliance.engine.messages import AdapterConfig
from appliance.errors import ConfigError, ModelNotFound
from appliance.models.gguf_header import TEXT
from appliance.models.lock import Adapter, Lock, Version
from appliance.models.store import StoredModel
from appliance.settings import ModelSettings, Settings

# Of a name that there isn't, in the error that says so.
MAX_SHOWN_CHARS = 100


def split_name(reference: str) -> tuple[str, str]:
    """The model's reference and the adapter's name. The name of a model itself may have a colon in it, as an alias."""
    name, at, version = reference.partition("@")
    if at:
        version, _, adapter = version.partition(":")
        return f"{name}@{version}", adapter
    base, _, adapter = reference.rpartition(":")
    return base, adapter


def servable(config: Settings, own: ModelSettings, stored: StoredModel) -> tuple[AdapterConfig, ...]:
    """The adapters that a model's engine is loaded with."""
    if max_adapters(config, own) == 0 or stored.record.header.kind != TEXT:
        return ()
    return tuple(
        AdapterConfig(adapter.name, str(adapter.path), adapter.sha256, own.adapter_scales.get(adapter.name, 1.0))
        for adapter in stored.adapters
    )


def max_adapters(config: Settings, own: ModelSettings) -> int:
    return config.max_adapters if own.max_adapters is None else own.max_adapters


@dataclass(frozen=True, slots=True)
class ListedAdapter:
    """An adapter of the lock by the name that it is asked for; ``problem``: why it can't be served, None if it can."""

    name: str
    scale: float
    problem: str | None


def listed(version: Version, stored: StoredModel, loaded: Iterable[AdapterConfig]) -> list[ListedAdapter]:
    """All adapters of a stored version; ``loaded`` are those that its engine is loaded with."""
    known = {adapter.name: adapter for adapter in loaded}
    return [
        ListedAdapter(
            f"{stored.name}:{adapter.name}",
            known[adapter.name].scale if adapter.name in known else 1.0,
            None if adapter.name in known else _problem(stored, adapter),
        )
        for adapter in version.adapters
    ]


def find(version: Version, stored: StoredModel, loaded: Iterable[AdapterConfig], name: str) -> AdapterConfig:
    """A model's adapter by its name.

    Raises:
        ModelNotFound: there is none, with those there are; or it can't be served, with the remedy.
    """
    known = {adapter.name: adapter for adapter in loaded}
    if (found := known.get(name)) is not None:
        return found
    base = stored.name
    for adapter in version.adapters:
        if adapter.name == name:
            raise ModelNotFound(
                f"the adapter {base}:{name} can't be served: {_problem(stored, adapter)}", param="model"
            )
    names = ", ".join(f"{base}:{name}" for name in known) or "none"
    raise ModelNotFound(
        f"the model {base} has no adapter '{name[:MAX_SHOWN_CHARS]}'; there are: {names}", param="model"
    )


def _problem(stored: StoredModel, adapter: Adapter) -> str:
    if stored.record.header.kind != TEXT:
        return "adapters are served of models that write text only"
    if any(adapter.name == there.name for there in stored.adapters):
        return "adapters are off for this model (max_adapters=0)"
    missing = "it was never built" if adapter.gguf is None else "its file is not there"
    return f"{missing}; run `appliance models build {stored.name}@{stored.record.version}`"


def check_scales(config: Settings, lock: Lock) -> None:
    """Raises ConfigError if a scale is set for an adapter that there isn't."""
    for entry in lock.models:
        own = config.models.get(entry.name, ModelSettings())
        known = {adapter.name for version in entry.versions for adapter in version.adapters}
        for name in own.adapter_scales.keys() - known:
            raise ConfigError(
                f"models.{entry.name}.adapter_scales: {config.models_lock} has no adapter {name} of this model; it "
                f"has: {', '.join(sorted(known)) or 'none'}"
            )
