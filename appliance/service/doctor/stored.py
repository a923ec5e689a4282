"""The lock file, what of it is published, and the model that is served when none is named."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.errors import ApplianceError, ModelNotFound
from appliance.models.lock import Entry, HubSource
from appliance.schemas.doctor import Finding
from appliance.service.doctor.subject import Published, Subject, Unreadable


def check_lock(subject: Subject) -> Iterator[Finding]:
    if isinstance(subject.lock, ApplianceError):
        yield Finding(
            name="lock file",
            status="failed",
            message=subject.lock.message,
            remedy="take it from version control, or correct the place that is named",
        )
        return
    for each in subject.published:
        if isinstance(each.stored, ApplianceError):
            yield _damaged(each, each.stored)
    groups: dict[str, list[str]] = {}
    for each in subject.published:
        groups.setdefault(_state(each), []).append(_name(each))
    told = "; ".join(f"{state}: {', '.join(names)}" for state, names in groups.items()) or "it names no model"
    yield Finding(name="lock file", status="ok", message=f"{subject.config.models_lock}: {told}")


def check_default_model(subject: Subject) -> Iterator[Finding]:
    if isinstance(subject.lock, ApplianceError):
        return
    if isinstance(subject.default, ApplianceError):
        message, remedy = subject.default.message, None
        if isinstance(subject.default, ModelNotFound):
            remedy = "set model to one of them (APPLIANCE_MODEL), or pin it: appliance models add"
        elif any(_says(each, message) for each in subject.published):
            message = "its file can't be used, see above: nothing can be served"
        yield Finding(name="default model", status="failed", message=message, remedy=remedy)
    elif subject.default is not None:
        record = subject.default.record
        message = f"{subject.default.name}@{record.version} {record.quantization} is stored"
        yield Finding(name="default model", status="ok", message=message)
        if isinstance(subject.draft, ApplianceError):
            remedy = "see to that, or leave draft_model out of the model's settings"
            yield Finding(name="default model", status="failed", message=subject.draft.message, remedy=remedy)
    else:
        entry = subject.lock.entry(subject.config.model)
        if _is_unpinned(entry):
            first = entry.versions[0].source
            repo = first.repo if isinstance(first, HubSource) else entry.name
            remedy = f"pin it, then build it: appliance models add {repo}; appliance models build {entry.name}"
        else:
            remedy = f"run: appliance models {_verb(entry)} {entry.name}"
        yield Finding(
            name="default model",
            status="failed",
            message=f"{entry.name} is not in {subject.config.models_dir}: nothing can be served",
            remedy=remedy,
        )


def _damaged(each: Published, error: ApplianceError) -> Finding:
    if isinstance(error, Unreadable):
        message = f"{_name(each)} can't be read: {error.message}"
        remedy = "let the user that serves read the store, and look at its disk (dmesg)"
    else:
        message = f"{_name(each)} is damaged: {error.message}"
        remedy = f"delete its folder and run: appliance models {_verb(each.entry)} {each.entry.name}"
    return Finding(name="lock file", status="failed", message=message, remedy=remedy)


def _says(each: Published, message: str) -> bool:
    return isinstance(each.stored, ApplianceError) and each.stored.message == message


def _state(each: Published) -> str:
    if isinstance(each.stored, ApplianceError):
        return "unreadable" if isinstance(each.stored, Unreadable) else "damaged"
    if each.stored is not None:
        return "stored"
    source = each.version.source
    return "not fully pinned" if isinstance(source, HubSource) and not source.files else "absent"


def _is_unpinned(entry: Entry) -> bool:
    source = entry.versions[0].source
    return isinstance(source, HubSource) and not source.files


def _verb(entry: Entry) -> str:
    return "build" if isinstance(entry.versions[0].source, HubSource) else "fetch"


def _name(each: Published) -> str:
    return f"{each.entry.name}@{each.version.short}"
