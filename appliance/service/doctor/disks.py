"""The disks: room on them, how fast models come from them, and whether the state folder can be written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

from appliance.errors import ApplianceError
from appliance.hardware.disks import Disk, read_speed
from appliance.hardware.memory_use import GIB, MIB, format_bytes
from appliance.schemas.doctor import Finding
from appliance.service.doctor.subject import Subject

# Below these, the next thing that is written may not fit: a model's file; answers and records.
_STORE_BYTES, _STATE_BYTES = GIB, 64 * MIB
_READ_BYTES, _READ_S = 256 * MIB, 1.0
_SLOW_LOAD_S = 60.0


def check_space(subject: Subject) -> Iterator[Finding]:
    if isinstance(subject.machine, ApplianceError):
        return
    model = subject.default_model
    largest = model.record.gguf_bytes if model is not None else 0
    wanted = {"models_dir": max(_STORE_BYTES, largest), "state_dir": _STATE_BYTES}
    for disk in subject.machine.disks:
        yield _space(disk, wanted.get(disk.name, 0))


def _space(disk: Disk, wanted_bytes: int) -> Finding:
    name = "disk"
    if disk.problem is not None:
        return Finding(name=name, status="failed", message=f"{disk.name}={disk.path} can't be read: {disk.problem}")
    kind = f" ({disk.file_system})" if disk.file_system else ""
    free = f"{format_bytes(disk.free_bytes)} of {format_bytes(disk.total_bytes)} are free"
    message = f"{disk.name}={disk.path}{kind}: {free}"
    if disk.is_read_only:
        return Finding(name=name, status="ok", message=f"{message}; it is read only")
    if disk.free_bytes < wanted_bytes:
        remedy = f"free at least {format_bytes(wanted_bytes)}"
        remedy += "; appliance models gc shows what is not served" if disk.name == "models_dir" else ""
        return Finding(name=name, status="warning", message=message, remedy=remedy)
    return Finding(name=name, status="ok", message=message)


def check_store_speed(subject: Subject) -> Iterator[Finding]:
    model = subject.default_model
    if model is None:
        return
    try:
        rate = read_speed(model.path, max_bytes=_READ_BYTES, max_s=_READ_S)
    except OSError as error:
        yield Finding(
            name="store speed",
            status="failed",
            message=f"{model.path} can't be read: {error.strerror}",
            remedy="let the user that serves read it, and look at the disk (dmesg)",
        )
        return
    load_s = model.record.gguf_bytes / max(rate, 1e-6)
    message = f"the default model is read at {format_bytes(int(rate))}/s: {load_s:.1f} s from the disk"
    is_slow = load_s > _SLOW_LOAD_S
    yield Finding(
        name="store speed",
        status="warning" if is_slow else "ok",
        message=message,
        remedy="put models_dir on a faster disk, or leave models loaded (no ttl_s)" if is_slow else None,
    )


def check_state_folder(subject: Subject) -> Iterator[Finding]:
    folder = subject.config.state_dir
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        yield Finding(
            name="state folder",
            status="failed",
            message=f"state_dir={folder} can't be written: {error.strerror}",
            remedy="let the user that serves write it, free disk space, or set APPLIANCE_STATE_DIR",
        )
        return
    yield Finding(name="state folder", status="ok", message=f"state_dir={folder} can be written")
