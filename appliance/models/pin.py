"""From the name of a repository to a lock entry that says exactly which bytes are meant."""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import msgspec

from appliance.errors import ConfigError
from appliance.files import write_atomically
from appliance.models.builder import file_types
from appliance.models.hub import Hub, RemoteFile, RepoInfo
from appliance.models.lock import Entry, FileSource, HubSource, Lock, TemplateFile, Version
from appliance.models.lock_file import with_entry
from appliance.models.sources import LICENSE_PATTERNS, Sources, chosen_files
from appliance.models.workshop import Workshop

DEFAULT_QUANTIZATION = "Q4_0"
GENERATION_CONFIG = "generation_config.json"
# What it may say of sampling, by our names.
_DEFAULTS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}


@dataclass(frozen=True)
class Wish:
    """What `models add` was asked for; None: what is usual.

    ``projector`` is a pattern of its path. ``successor_of``: what an operator changed there holds here too.
    """

    repo: str
    revision: str | None = None
    name: str | None = None
    quantization: str | None = None
    allow_patterns: tuple[str, ...] = ()
    allow_pickle: bool = False
    imatrix_sha256: str | None = None
    tensor_types: dict[str, str] = field(default_factory=dict)
    projector: str | None = None
    chat_template: TemplateFile | None = None
    successor_of: Version | None = None


def parse_repo(text: str) -> tuple[str, str | None]:
    """``REPO`` or ``REPO@REVISION``."""
    repo, _, revision = text.partition("@")
    return repo, revision or None


def successor(version: Version, name: str, revision: str | None) -> Wish:
    """Another revision of a model, made like ``version``. Raises ConfigError if that isn't from the hub."""
    source = version.source
    if not isinstance(source, HubSource):
        by_file = f"bring a newer file with `appliance models import FILE.gguf --name {name}`"
        remedy = by_file if isinstance(source, FileSource) else "change its source in models.lock by hand"
        raise ConfigError(f"{name} does not come from the hub: {remedy}")
    return Wish(
        source.repo,
        revision,
        name,
        version.quantization,
        source.allow_patterns,
        source.allow_pickle,
        version.imatrix_sha256,
        version.tensor_types,
        glob.escape(version.projector.path) if version.projector is not None else None,
        version.chat_template,
        version,
    )


def pin(wish: Wish, lock: Lock, hub: Hub, sources: Sources, workshop: Workshop) -> tuple[Entry, Version]:
    """The entry as the lock should have it, and the version in it that was asked for.

    A version that the lock has already keeps what it says, and gets what it lacks.

    Raises:
        ConfigError: the hub says no, or the repository holds nothing that can be served.
    """
    wanted = _checked(wish.quantization) if wish.quantization is not None else None
    info = hub.info(wish.repo, wish.revision)
    name = wish.name or default_name(wish.repo)
    entry = next((entry for entry in lock.models if entry.name == name), None)
    versions = entry.versions if entry is not None else ()
    known = next((version for version in versions if _is_same(version, wish, info.revision)), None)
    projector = _projector(info, wish.projector)
    info = dataclasses.replace(info, files=tuple(file for file in info.files if file != projector))
    patterns, allow_pickle = wish.allow_patterns, wish.allow_pickle
    if known is not None and isinstance(known.source, HubSource):
        patterns = patterns or known.source.allow_patterns
        allow_pickle = allow_pickle or known.source.allow_pickle
    if known is not None and isinstance(known.source, HubSource) and known.source.files:
        # What is pinned stays as it is, but a projector is no part of the model.
        own = tuple(file for file in known.source.files if projector is None or file.path != projector.path)
        source = msgspec.structs.replace(known.source, files=own)
    else:
        chosen = chosen_files(info, patterns, allow_pickle=allow_pickle)
        source = sources.pin(HubSource(info.repo, info.revision, info.gated, patterns, allow_pickle), chosen)
    quantization = wanted or (known.quantization if known else _usual_quantization(source))
    license_sha256 = next((f.sha256 for f in source.files if _is_license(f.path)), None)
    fresh = Version(
        source,
        quantization,
        license_sha256,
        imatrix_sha256=wish.imatrix_sha256,
        tensor_types=wish.tensor_types,
        defaults=_sampling_defaults(workshop.source_folder(source)),
        chat_template=wish.chat_template,
        projector=sources.pin(source, [projector]).files[0] if projector is not None else None,
    )
    if known is not None:
        fresh = msgspec.structs.replace(
            known,
            source=source,
            license_sha256=known.license_sha256 or fresh.license_sha256,
            defaults=known.defaults or fresh.defaults,
            chat_template=fresh.chat_template or known.chat_template,
            projector=fresh.projector or known.projector,
        )
    elif wish.successor_of is not None:
        fresh = msgspec.structs.replace(fresh, defaults=_kept_defaults(wish.successor_of, fresh, sources))
    if entry is None:
        return Entry(name, info.license or "unknown", (fresh,)), fresh
    versions = tuple(fresh if version is known else version for version in versions)
    if known is None:
        versions = (fresh, *versions)
    return msgspec.structs.replace(entry, license=entry.license or info.license, versions=versions), fresh


def replaced(lock: Lock, name: str, old: Version, new: Version) -> Lock:
    """``lock`` with what became known of a version. Raises ModelNotFound if the entry has gone."""
    entry = lock.entry(name)
    if old not in entry.versions:
        raise ConfigError(
            f"models.lock was changed meanwhile, and what was found out of {name} isn't in it; run it again"
        )
    versions = tuple(new if version == old else version for version in entry.versions)
    return with_entry(lock, msgspec.structs.replace(entry, versions=versions))


def default_name(repo: str) -> str:
    """A repository's own name, as a lock writes names."""
    return re.sub(r"[^a-z0-9._-]+", "-", repo.rpartition("/")[2].lower()).strip("-._")[:64]


def _is_same(version: Version, wish: Wish, revision: str) -> bool:
    source = version.source
    if not isinstance(source, HubSource) or source.repo != wish.repo or source.revision not in (None, revision):
        return False
    if source.files and wish.allow_patterns not in ((), source.allow_patterns):
        return False
    if wish.imatrix_sha256 not in (None, version.imatrix_sha256) or wish.tensor_types not in ({}, version.tensor_types):
        return False
    return wish.quantization is None or wish.quantization.upper() == version.quantization


def keep_imatrix(path: Path, workshop: Workshop) -> str:
    """Copies an importance matrix to where builds look for it; its SHA-256."""
    try:
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        kept = workshop.imatrix(sha256)
        kept.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--imatrix {path}: {error.strerror}") from None
    if not content.startswith(b"GGUF"):
        raise ConfigError(f"--imatrix {path}: want the GGUF file that llama-imatrix writes")
    if not kept.exists():
        write_atomically(kept, content)
    return sha256


def _usual_quantization(source: HubSource) -> str:
    if not source.is_gguf:
        return DEFAULT_QUANTIZATION
    # Files are named after their type; the longest name that fits is meant.
    names = " ".join(file.path.upper() for file in source.files if file.path.endswith(".gguf"))
    found = [kind for kind in file_types() if re.search(rf"(?<![A-Z0-9]){re.escape(kind)}(?![A-Z0-9_])", names)]
    if not found:
        raise ConfigError(f"{source.repo}: the file's name doesn't say its type; say it with --quant")
    return max(found, key=len)


def _checked(quantization: str) -> str:
    known = {kind.upper(): kind for kind in file_types()}
    if quantization.upper() not in known:
        raise ConfigError(f"--quant {quantization}: want one of {', '.join(sorted(known))}")
    return known[quantization.upper()]


def _is_license(path: str) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in LICENSE_PATTERNS)


def _sampling_defaults(folder: Path) -> dict[str, float | int]:
    try:
        config = json.loads((folder / GENERATION_CONFIG).read_text("utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    if not isinstance(config, dict) or config.get("do_sample") is False:
        return {}
    found = {ours: config.get(theirs) for theirs, ours in _DEFAULTS.items()}
    return {name: value for name, value in found.items() if _is_number(value)}


def _kept_defaults(old: Version, new: Version, sources: Sources) -> dict[str, float | int]:
    """Those of ``new``, but what was changed by hand in ``old``'s stays: what isn't as its repository said."""
    assert isinstance(old.source, HubSource)
    config = tuple(file for file in old.source.files if file.path == GENERATION_CONFIG)
    try:
        said = _sampling_defaults(sources.fetch(msgspec.structs.replace(old.source, files=config)))
    except ConfigError:  # its commit is gone, and nobody knows
        return {**new.defaults, **old.defaults}
    by_hand = {name for name in (*said, *old.defaults) if old.defaults.get(name) != said.get(name)}
    kept = {name: value for name, value in old.defaults.items() if name in by_hand}
    return {name: value for name, value in new.defaults.items() if name not in by_hand} | kept


def _projector(info: RepoInfo, pattern: str | None) -> RemoteFile | None:
    if pattern is None:
        return None
    files = [file for file in info.files if file.path.endswith(".gguf")]
    found = [file for file in files if fnmatch.fnmatchcase(file.path, pattern)]
    if len(found) != 1:
        names = ", ".join(file.path for file in found or files) or "none"
        raise ConfigError(
            f"--projector {pattern}: {info.repo} has {len(found)} such files, want one; there are: {names}"
        )
    return found[0]


def _is_number(value: Any) -> TypeGuard[float | int]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
