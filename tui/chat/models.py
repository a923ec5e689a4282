"""The models that can be asked, as the chat shows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from appliance.schemas.admin import AdapterInfo, ModelStatus, Version
from tui.figures import size_text
from tui.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """``state`` in words, such as ``ready`` or ``loading 40 %``. ``n_ctx`` is that of its engine, or else the largest
    that it could have; None: not known. ``load_ratio`` None: it isn't being loaded."""

    name: str
    state: str
    details: str = ""
    n_ctx: int | None = None
    is_default: bool = False
    load_ratio: float | None = None


def models(snapshot: Snapshot) -> list[ModelInfo]:
    """The current version of each that writes text, followed by itself with its adapters."""
    found: list[ModelInfo] = []
    for version in _current(snapshot):
        if version.may_write_text:
            info = _info(version, _status(snapshot, version))
            found += [info, *(_with_adapter(info, adapter) for adapter in version.adapters)]
    return found


def model_asked(snapshot: Snapshot, reference: str | None) -> ModelInfo | None:
    """The one that a request for ``reference`` goes to, if that is known; None means the default."""
    default = snapshot.status.default if snapshot.status is not None else None
    name = reference if reference is not None else default
    if name is None:
        return None
    for version in snapshot.models.models if snapshot.models is not None else ():
        names = {f"{version.name}@{version.version}"}
        if version.is_current:
            names |= {version.name, *version.aliases}
        if name in names:
            return _info(version, _status(snapshot, version))
        for adapter in version.adapters:
            if name in {f"{each}:{adapter.name.rpartition(':')[2]}" for each in names}:
                return _with_adapter(_info(version, _status(snapshot, version)), adapter)
    return next(
        (ModelInfo(s.name, _state(s), n_ctx=_n_ctx(s)) for s in _statuses(snapshot) if s.name == name),
        ModelInfo(name, ""),
    )


def _info(version: Version, status: ModelStatus | None) -> ModelInfo:
    details = [version.quantization, *([size_text(version.size_bytes)] if version.size_bytes else [])]
    return ModelInfo(
        version.name,
        version.problem or (_state(status) if status is not None else version.state),
        ", ".join(details),
        (_n_ctx(status) if status is not None else None) or version.n_ctx_train,
        version.is_default,
        status.load_ratio if status is not None and status.state == "loading" else None,
    )


def _with_adapter(info: ModelInfo, adapter: AdapterInfo) -> ModelInfo:
    state = adapter.problem or info.state
    return replace(info, name=adapter.name, state=state, details="LoRA adapter", is_default=False)


def _state(status: ModelStatus) -> str:
    if status.state == "loading" and status.load_ratio is not None:
        return f"loading {status.load_ratio:.0%}"
    return f"{status.state}: {status.error}" if status.state == "failed" and status.error else status.state


def _n_ctx(status: ModelStatus) -> int | None:
    return status.engine.n_ctx if status.engine is not None else None


def _current(snapshot: Snapshot) -> Iterator[Version]:
    for version in snapshot.models.models if snapshot.models is not None else ():
        if version.is_current:
            yield version


def _status(snapshot: Snapshot, version: Version) -> ModelStatus | None:
    """The newest that is known."""
    found = (s for s in _statuses(snapshot) if (s.name, s.version) == (version.name, version.version))
    return next(found, version.status)


def _statuses(snapshot: Snapshot) -> list[ModelStatus]:
    return snapshot.status.models if snapshot.status is not None else []
