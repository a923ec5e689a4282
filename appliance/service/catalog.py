"""The models that can be asked for: what models.lock, the store, the state folder and the settings say together."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from appliance import logs
from appliance.cache.key import ModelIdentity
from appliance.chat.dialect import Dialect
from appliance.chat.template import ChatTemplate
from appliance.engine.build import engine_build
from appliance.engine.messages import AdapterConfig
from appliance.errors import ApplianceError, ConfigError, InvalidRequest, ModelNotFound
from appliance.models.gguf_header import EMBEDDING, RERANK, TEXT
from appliance.models.lock import SHORT_SHA, Entry, Lock, Version, read_lock
from appliance.models.store import ModelStore, StoredModel
from appliance.service.adapters import MAX_SHOWN_CHARS, check_scales, split_name
from appliance.service.adapters import find as find_adapter
from appliance.service.draft_model import check_draft_models, draft_entry, draft_model
from appliance.service.model_spec import model_spec
from appliance.service.versions import choose_version, current_version, how_to_get, meant_version
from appliance.settings import ModelSettings, Settings
from appliance.state.current import CurrentVersions
from appliance.state.preferences import Preferences
from appliance.supervisor.spec import ModelSpec

log = logging.getLogger(__name__)

# Of each file: when it was written, its size, and which it is; None: there is none.
Stamps = tuple[tuple[int, int, int] | None, ...]

# What a model does that was asked for something else.
_PURPOSES = {
    TEXT: "writes text and embeds none; ask it at /v1/chat/completions, or name a model here whose kind is embedding "
    "(/v1/models tells)",
    EMBEDDING: "embeds texts and writes none; send them to /v1/embeddings",
    RERANK: "rates texts for a question, which this release doesn't serve; it neither writes nor embeds any",
}


@dataclass(frozen=True)
class ServedModel:
    """One version of a model, with the settings that hold for it, alone or with one of its adapters.

    ``name`` is its entry's; ``base:adapter`` with an adapter.
    """

    name: str
    spec: ModelSpec
    settings: ModelSettings
    aliases: tuple[str, ...] = ()
    adapter: AdapterConfig | None = None

    @property
    def stored(self) -> StoredModel:
        return self.spec.stored

    @cached_property
    def fingerprint(self) -> str:
        override = self.stored.template_override
        template = f"-{hashlib.sha256(override.encode()).hexdigest()[:8]}" if override is not None else ""
        adapter = ""
        if self.adapter is not None:
            scale = f"x{self.adapter.scale:g}" if self.adapter.scale != 1.0 else ""
            adapter = f"-lora{self.adapter.sha256[:8]}{scale}"
        return f"{self.stored.record.version}{template}{adapter}-{engine_build()}"

    @cached_property
    def identity(self) -> ModelIdentity:
        """What decides its answers."""
        return ModelIdentity(
            gguf_sha256=self.stored.record.gguf_sha256,
            template_sha256=hashlib.sha256((self.stored.chat_template or "").encode()).hexdigest(),
            engine_build=engine_build(),
            type_k=self.spec.wanted.type_k,
            type_v=self.spec.wanted.type_v,
            adapter_sha256=self.adapter.sha256 if self.adapter is not None else "",
            adapter_scale=self.adapter.scale if self.adapter is not None else 1.0,
        )

    def check_kind(self, wanted: str) -> None:
        """Raises InvalidRequest, with the remedy, if the model is of another kind than a request is for."""
        kind = self.stored.record.header.kind
        if kind != wanted:
            raise InvalidRequest(f"the model {self.name} {_PURPOSES[kind]}", param="model")

    @property
    def adapted(self) -> list[ServedModel]:
        """The same model with each of its adapters."""
        return [self.with_adapter(adapter) for adapter in self.spec.adapters]

    def with_adapter(self, adapter: AdapterConfig) -> ServedModel:
        name = f"{self.stored.name}:{adapter.name}"
        return ServedModel(name, self.spec, self.settings, adapter=adapter)

    @cached_property
    def template(self) -> ChatTemplate | None:
        """None: the model has none. Raises ConfigError if it can't be compiled."""
        header, source = self.stored.record.header, self.stored.chat_template
        if source is None:
            return None
        return ChatTemplate(
            source,
            bos_token=header.bos_token,
            eos_token=header.eos_token,
            control_tokens=header.control_tokens,
        )

    @cached_property
    def dialect(self) -> Dialect | None:
        """How the model writes tool calls; None: it has no template."""
        return self.template.dialect if self.template is not None else None

    @cached_property
    def sampling(self) -> dict[str, object]:
        """What the operator set for requests that leave it out."""
        return self.settings.sampling.model_dump(exclude_none=True)


@dataclass(frozen=True, slots=True)
class Listed:
    """A version of the lock; ``served`` None: it can't be served, for the reason ``problem``.

    ``is_previous``: it was current before the one that is.
    """

    entry: Entry
    version: Version
    served: ServedModel | None
    is_current: bool
    is_previous: bool
    problem: str | None = None


class Catalog:
    """Follows models.lock and the state folder: commands may change both while the server runs."""

    def __init__(self, config: Settings, store: ModelStore) -> None:
        """Raises ConfigError if the lock can't be read, or settings are made for a model that isn't in it."""
        self._config = config
        self._store = store
        self._files = (
            config.models_lock,
            config.state_dir / "current.json",
            config.state_dir / "preferences.json",
        )
        self._read_at: Stamps = ()
        self._listeners: list[Callable[[frozenset[str]], None]] = []
        self._read()
        for name in config.models:
            if all(name != entry.name for entry in self._lock.models):
                known = ", ".join(entry.name for entry in self._lock.models) or "none"
                raise ConfigError(f"models.{name}: {config.models_lock} has no such model; it has: {known}")
        check_scales(config, self._lock)
        check_draft_models(config, self._lock)

    @property
    def default_name(self) -> str:
        """What a request gets that names no model. Raises ModelNotFound if the lock hasn't got it."""
        self._follow()
        chosen = self._preferences.default
        try:
            return self._lock.entry(chosen or self._aliases.get(self._config.model or "", self._config.model)).name
        except ModelNotFound as error:
            if chosen is None:
                raise
            raise ModelNotFound(
                f"the default model '{chosen}' is not in {self._config.models_lock} any more; choose another with "
                f"`appliance models default NAME`, or delete {self._preferences.path}",
                param="model",
            ) from error

    @property
    def default_if_any(self) -> str | None:
        """As :attr:`default_name`; None if the lock hasn't got it."""
        try:
            return self.default_name
        except ModelNotFound:
            return None

    def listen(self, listener: Callable[[frozenset[str]], None]) -> None:
        """``listener`` is called with the keys of all versions whenever models.lock was read again."""
        self._listeners.append(listener)

    def resolve(self, reference: str | None) -> ServedModel:
        """The model of this name, alias or NAME@VERSION, each also as base:adapter; the default for None or "".

        Raises:
            ModelNotFound: there is none, or its file isn't here; with what there is, or the remedy.
            ConfigError: its file has other bytes than the lock says.
        """
        self._follow()
        key = reference or ""
        if (served := self._served.get(key)) is not None:
            return served
        base, adapter = self._split(key)
        if adapter:
            served = self._served[key] = self._with_adapter(base, adapter)
            return served
        entry = self.entry(reference)
        stamps = self._file_stamps(entry)
        error, seen = self._damaged.get(key, (None, ()))
        if error is not None and seen == stamps:
            raise error.with_traceback(None)  # to find that out, the whole file was read
        try:
            served = self._served[key] = self._serve(entry, key.partition("@")[2])
        except ConfigError as error:
            self._damaged[key] = error, stamps
            raise
        return served

    def _split(self, reference: str) -> tuple[str, str]:
        """A reference without its adapter, and that; the adapter is empty if there is none."""
        base, adapter = split_name(reference)
        is_name = "@" not in reference and self._is_known(reference)
        return (base, adapter) if adapter and not is_name and self._is_known(base) else (reference, "")

    def _is_known(self, reference: str) -> bool:
        try:
            self.entry(reference)
        except ModelNotFound:
            return False
        return bool(reference)

    def _with_adapter(self, base: str, name: str) -> ServedModel:
        served = self.resolve(base)
        if name not in (adapter.name for adapter in served.spec.adapters):
            self._served.pop(base)  # its file may have come since
            served = self.resolve(base)
        version = self.entry(base).version(served.stored.record.gguf_sha256)
        return served.with_adapter(find_adapter(version, served.stored, served.spec.adapters, name))

    def entry(self, reference: str | None) -> Entry:
        """The lock's entry that a name, alias or NAME@VERSION means. Raises ModelNotFound."""
        self._follow()
        name = (reference or self.default_name).partition("@")[0]
        try:
            return self._lock.entry(self._aliases.get(name, name))
        except ModelNotFound:
            known = ", ".join(served.name for served in self.current()) or "none"
            shown = (reference or name)[:MAX_SHOWN_CHARS]
            raise ModelNotFound(f"the model '{shown}' does not exist; there are: {known}", param="model") from None

    def current(self) -> list[ServedModel]:
        """The version in use of each model that can be served, in the lock's order."""
        self._follow()
        return [served for entry in self._lock.models if (served := self._try(entry)) is not None]

    def all(self) -> list[Listed]:
        """Every version of the lock, in its order."""
        self._follow()
        listed = []
        for entry in self._lock.models:
            in_use = self._try(entry)
            choice = self._versions.get(entry.name)
            previous = choice.previous if choice is not None else None
            for version in entry.versions:
                is_previous = version.gguf is not None and version.gguf.sha256 == previous
                try:
                    served = self.resolve(f"{entry.name}@{version.short}")
                    is_current = in_use is not None and served.spec.key == in_use.spec.key
                    listed.append(Listed(entry, version, served, is_current, is_previous))
                except ApplianceError as error:
                    listed.append(Listed(entry, version, None, False, is_previous, error.message))
        return listed

    def meant(self, name: str, version: str) -> ServedModel:
        """What :meth:`use` would make current. Raises ModelNotFound or ConfigError."""
        entry = self.entry(name)
        stored = meant_version(entry, version or name.partition("@")[2], self._store, self._versions)
        return self._served_as(entry, stored)

    def use(self, name: str, version: str) -> ServedModel:
        """Makes a version current, by default that of NAME@VERSION; ``previous`` goes back.

        Raises ModelNotFound or ConfigError.
        """
        entry = self.entry(name)
        choose_version(entry, version or name.partition("@")[2], self._store, self._versions)
        self._read()
        return self.resolve(entry.name)

    def pin(self, name: str, *, is_pinned: bool) -> ServedModel:
        """Decides whether a model may make way for others. Raises ModelNotFound or ConfigError."""
        served = self._whole(name)
        self._preferences.pin(served.name, is_pinned=is_pinned)
        self._read()
        return self.resolve(name)

    def _whole(self, name: str) -> ServedModel:
        """As :meth:`resolve`. Raises InvalidRequest for a model with an adapter."""
        served = self.resolve(name)
        if served.adapter is not None:
            base = served.stored.name
            raise InvalidRequest(f"{served.name} is an adapter of {base}; name the model, {base}", param="model")
        return served

    def set_default(self, name: str) -> ServedModel:
        """Decides what a request gets that names no model. Raises ModelNotFound or ConfigError."""
        served = self._whole(name)
        self._preferences.set_default(served.name)
        self._read()
        return served

    def _try(self, entry: Entry) -> ServedModel | None:
        try:
            return self.resolve(entry.name)
        except ApplianceError:
            return None  # not here, or damaged: `all` says so

    def _serve(self, entry: Entry, version: str) -> ServedModel:
        if version:
            stored = self._store.find_version(entry, entry.version(version))
        else:
            stored = current_version(entry, self._store, self._versions)
        if stored is None:
            raise ModelNotFound(
                f"the model {entry.name} is not in {self._config.models_dir}; {how_to_get(entry)}", param="model"
            )
        return self._served_as(entry, stored)

    def _served_as(self, entry: Entry, stored: StoredModel) -> ServedModel:
        own = self._config.models.get(entry.name, ModelSettings())
        pinned = self._preferences.is_pinned(entry.name)
        draft = draft_model(self._config, self._lock, stored, self._store, self._versions)
        return ServedModel(
            name=entry.name,
            spec=model_spec(self._config, own, stored, draft, is_pinned=own.pinned if pinned is None else pinned),
            settings=own,
            aliases=(*entry.aliases, *own.aliases),
        )

    def _follow(self) -> None:
        """Reads again what has changed; what is bad then leaves what was read before in force."""
        if (stamps := self._stamps()) == self._read_at:
            return
        try:
            self._read()
        except ConfigError as error:
            self._read_at = stamps
            log.error(logs.event("models_not_reread", reason=error))
        else:
            log.info(logs.event("models_reread", models=len(self._lock.models)))
            versions = [(entry.name, version.gguf) for entry in self._lock.models for version in entry.versions]
            keys = frozenset(f"{name}@{gguf.sha256[:SHORT_SHA]}" for name, gguf in versions if gguf is not None)
            for listener in self._listeners:
                listener(keys)

    def _read(self) -> None:
        stamps = self._stamps()
        lock = read_lock(self._config.models_lock)
        self._check_aliases(lock)
        versions, preferences = CurrentVersions(self._config.state_dir), Preferences(self._config.state_dir)
        self._lock: Lock = lock
        self._versions, self._preferences = versions, preferences
        self._served: dict[str, ServedModel] = {}
        self._damaged: dict[str, tuple[ConfigError, Stamps]] = {}
        self._aliases = {alias: name for name, own in self._config.models.items() for alias in own.aliases}
        self._read_at = stamps

    def _file_stamps(self, entry: Entry) -> Stamps:
        roots = [root for root in (self._config.image_models_dir, self._config.models_dir) if root is not None]
        draft = draft_entry(self._config, self._lock, entry.name)
        entries = (entry,) if draft is None else (entry, draft[0])
        folders = [root / one.name / version.short for root in roots for one in entries for version in one.versions]
        return tuple(_stamp(path) for folder in folders for path in (folder, folder / "model.gguf"))

    def _stamps(self) -> Stamps:
        return tuple(map(_stamp, self._files))

    def _check_aliases(self, lock: Lock) -> None:
        """The lock's own names are checked where it is read."""
        meant = {name: entry.name for entry in lock.models for name in (entry.name, *entry.aliases)}
        for owner, own in self._config.models.items():
            for alias in own.aliases:
                if (other := meant.setdefault(alias, owner)) != owner:
                    raise ConfigError(f"models.{owner}.aliases: {alias} means {other} already")


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
