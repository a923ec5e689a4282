"""Puts models into an image, in its build.

``bake_models.py fetch [NAME[@VERSION]]...`` downloads what they are made of; ``bake_models.py build TARGET [NAME]...``
makes them and leaves in TARGET what an image carries: the published files, and a lock with these models alone.
Only what ``models.lock`` pins to the last byte is put in, so that two builds of one lock have the same models.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import tomlkit

from appliance import settings
from appliance.errors import ApplianceError, ConfigError
from appliance.models.lock import Entry, Lock, Version, read_lock
from appliance.models.lock_file import plain
from appliance.models.store import ModelStore, Record, StoredModel

HEADER = "# The models of this image.\n"


def chosen(lock: Lock, names: list[str]) -> list[tuple[Entry, Version]]:
    """Raises ConfigError if one isn't wholly pinned, ModelNotFound if there is none of that name."""
    found = [lock.resolve(name) for name in names or [""]]
    for entry, version in found:
        if version.gguf is None or any(adapter.gguf is None for adapter in version.adapters):
            raise ConfigError(
                f"{entry.name}: models.lock doesn't say which bytes come out. Run `appliance models build "
                f"{entry.name}` once, commit the lock that it completes, and build the image then"
            )
    return found


def run_models(*words: str) -> None:
    if subprocess.run([sys.executable, "-m", "appliance", "models", *words]).returncode != 0:
        sys.exit(1)


def export(models: list[tuple[Entry, Version]], lock: Lock, store: ModelStore, target: Path) -> None:
    """Copies the published files, so that the same models are the same bytes and times on each machine."""
    entries: dict[str, Entry] = {}
    for entry, version in models:
        stored = store.find_version(entry, version)
        assert stored is not None
        _copy(stored, target / entry.name / version.short)
        before = entries[entry.name].versions if entry.name in entries else ()
        entries[entry.name] = msgspec.structs.replace(entry, versions=(*before, version))
    carried = msgspec.structs.replace(lock, models=tuple(entries.values()))
    (target / "models.lock").write_text(HEADER + tomlkit.dumps(plain(carried)), "utf-8")
    time_s = int(os.environ["SOURCE_DATE_EPOCH"])
    for path in (target, *target.rglob("*")):
        os.utime(path, (time_s, time_s))


def _copy(stored: StoredModel, folder: Path) -> None:
    shutil.copytree(stored.path.parent, folder)
    time_ns = int(os.environ["SOURCE_DATE_EPOCH"]) * 10**9
    record: Record = msgspec.structs.replace(stored.record, mtime_ns=time_ns, inode=0)
    (folder / "record.json").write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def main() -> None:
    stage, *words = sys.argv[1:]
    config = settings.load()
    lock = read_lock(config.models_lock)
    try:
        if stage == "fetch":
            chosen(lock, words)
            run_models("fetch", *words)
        else:
            target, *names = words
            models = chosen(lock, names)
            run_models("build", *names)
            run_models("verify", "--deep", *names)
            export(models, lock, ModelStore(config.models_dir), Path(target))
    except ApplianceError as error:
        sys.exit(f"error: {error.message}")


if __name__ == "__main__":
    main()
