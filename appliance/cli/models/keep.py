"""The commands that choose versions and free disk space."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.options import Json
from appliance.errors import ConfigError

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


def use(
    reference: Annotated[
        str, typer.Argument(metavar="NAME@VERSION", help="A version, or NAME@previous to go back; NAME alone: newest.")
    ],
    json: Json = False,
) -> None:
    """Choose the version of a model that is served. Nothing is deleted.

    A running server takes it with the next request; `appliance models load NAME` loads it at once.
    """
    from appliance.cli.models.room import Room, print_result
    from appliance.service.versions import choose_version, current_version

    room = Room()
    name, _, wanted = reference.partition("@")
    entry = room.lock.entry(name)
    before = current_version(entry, room.store, room.versions)
    version = choose_version(entry, wanted, room.store, room.versions)
    print_result(
        {
            "name": entry.name,
            "version": version.short,
            "before": before.record.version if before is not None else None,
        },
        f"{entry.name}@{version.short} is current; a running server takes it with its next request",
        json=json,
    )


def rm(
    reference: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="A model with all versions, or one.")],
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Delete a model, or one version, from disk and models.lock."""
    from appliance.cli.models.room import Room, print_result
    from appliance.models.lock_file import change_lock, without

    room = Room()
    name, _, wanted = reference.partition("@")
    entry = room.lock.entry(name)
    versions = (entry.version(wanted),) if wanted else entry.versions
    names = ", ".join(f"{entry.name}@{version.short}" for version in versions)
    _confirm(f"delete {names} from {room.config.models_dir} and from {room.config.models_lock}?", yes=yes)
    with room.workshop.entered():
        change_lock(room.config.models_lock, lambda lock: without(lock, entry.name, versions))
        left = {other.gguf for other in entry.versions if other not in versions}
        for version in versions:
            choice = room.versions.get(entry.name)
            if version.gguf is None or version.gguf in left:  # another revision gave the same file
                continue
            if choice is not None and choice.current == version.gguf.sha256:
                room.versions.forget(entry.name)
            if (room.config.models_dir / entry.name / version.short).is_dir():
                room.store.unpublish(entry.name, version.gguf.sha256)
    deleted = [{"name": entry.name, "version": version.short} for version in versions]
    print_result({"deleted": deleted}, f"deleted {names}", json=json)


def gc(
    yes: Yes = False,
    keep_sources: Annotated[bool, typer.Option("--keep-sources", help="Keep what was fetched from the hub.")] = False,
    json: Json = False,
) -> None:
    """Free the room of what is not served; says what first, and asks.

    That is: files that models.lock doesn't name, and what building left.
    """
    from appliance.cli.models.room import Room, human_size, print_result
    from appliance.models.beside import companions, published_companions

    room = Room()
    with room.workshop.entered():
        named: dict[Path, set[Path]] = {}
        for entry in room.lock.models:
            for version in (version for version in entry.versions if version.gguf is not None):
                folder = room.config.models_dir / entry.name / version.short
                named.setdefault(folder, set()).update(folder / each.path for each in companions(version))
        unnamed = [folder for folder in room.store.folders() if folder not in named]
        stale = [path for folder in named for path in published_companions(folder) if path not in named[folder]]
        for left in (part for folder in named for part in folder.rglob("*.part")):  # by one that was killed
            left.unlink()
        work = [room.workshop.made, room.workshop.partial] + ([] if keep_sources else [room.workshop.root / "sources"])
        published = {*unnamed, *stale}
        garbage = [(path, size) for path, size in _freed([*unnamed, *stale, *work]) if size or path in published]
        total = sum(size for _, size in garbage)
        result = {"size_bytes": total, "freed": [{"path": str(path), "size_bytes": size} for path, size in garbage]}
        if not garbage:
            return print_result(result, "nothing to free", json=json)
        for path, size in garbage:
            typer.echo(f"{human_size(size):>10}  {path}", err=json)
        _confirm(f"free {human_size(total)}?", yes=yes)
        for folder in unnamed:
            room.store.delete(folder)
        for path in stale:
            path.unlink()
        for folder in work:
            room.workshop.empty(folder)
    return print_result(result, f"freed {human_size(total)}", json=json)


def _freed(paths: list[Path]) -> list[tuple[Path, int]]:
    """What deleting each would free, in bytes, if all are deleted. A file that is linked elsewhere frees nothing."""
    found = [(path, file.stat()) for path in paths for file in (path, *path.rglob("*")) if file.is_file()]
    n_links = Counter(status.st_ino for _, status in found)
    sizes = dict.fromkeys(paths, 0)
    counted: set[int] = set()
    for path, status in found:
        if status.st_nlink == n_links[status.st_ino] and status.st_ino not in counted:
            counted.add(status.st_ino)
            sizes[path] += status.st_size
    return list(sizes.items())


def _confirm(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} There is no terminal to ask on; say --yes")
    typer.confirm(question, abort=True, err=True)
