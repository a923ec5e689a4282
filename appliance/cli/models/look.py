"""The commands that show and check models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.options import Json
from appliance.errors import ConfigError

if TYPE_CHECKING:
    from appliance.cli.models.room import Room
    from appliance.models.lock import Entry, Version

Reference = Annotated[
    str | None, typer.Argument(metavar="NAME[@VERSION]", help="A model. [default: the first in models.lock]")
]


def ls(json: Json = False) -> None:
    """List the models of models.lock and whether they can be served."""
    from appliance.cli.models.room import Room, human_size, print_json

    room = Room()
    rows: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "version": version.short,
            "quantization": version.quantization,
            "size_bytes": version.gguf.size_bytes if version.gguf is not None else None,
            "license": entry.license,
            "state": _state(room, entry, version),
            "current": version == room.current(entry),
            "adapters": _adapters(room, entry, version),
        }
        for entry in room.lock.models
        for version in entry.versions
    ]
    if json:
        return print_json(rows)
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        n_bytes = human_size(row["size_bytes"]) if row["size_bytes"] else "-"
        mark = "*" if row["current"] else " "
        typer.echo(
            f"{mark} {row['name']:<{width}}  {row['version']:<12}  {row['quantization']:<8}  {n_bytes:>9}  "
            f"{row['license']:<12}  {row['state']}"
        )
        for adapter in row["adapters"]:
            typer.echo(f"    {adapter['name']}  {_adapter_text(adapter)}")
    return None


def _adapters(room: Room, entry: Entry, version: Version) -> list[dict[str, Any]]:
    """Those of a stored version, by the names that requests ask for."""
    from dataclasses import asdict

    from appliance.service.adapters import listed, servable
    from appliance.settings import ModelSettings

    try:
        stored = room.store.find_version(entry, version)
    except ConfigError:
        return []
    if stored is None:
        return []
    own = room.config.models.get(entry.name, ModelSettings())
    return [asdict(adapter) for adapter in listed(version, stored, servable(room.config, own, stored))]


def _adapter_text(adapter: dict[str, Any]) -> str:
    return str(adapter["problem"] or f"LoRA adapter, scale {adapter['scale']:g}")


def _state(room: Room, entry: Entry, version: Version) -> str:
    from appliance.models.lock import HubSource

    try:
        if room.store.is_published(entry, version) and not room.store.has_companions(entry, version):
            return "incomplete"
        if room.store.find_version(entry, version) is not None:
            return "stored"
    except ConfigError:
        return "damaged"
    if isinstance(version.source, HubSource) and not version.source.files:
        return "not fully pinned"
    return "absent"


def show(reference: Reference = None, json: Json = False) -> None:
    """Show a model's source, how it is made, and what that cost."""
    from appliance.cli.models.make import describe_quality
    from appliance.cli.models.room import Room, count, human_size, print_json
    from appliance.models.lock_file import plain

    room = Room()
    entry, version = room.lock.resolve(reference)
    if json:
        return print_json(
            {
                **plain(entry),
                "versions": [plain(version)],
                "state": _state(room, entry, version),
                "adapters": _adapters(room, entry, version),
            }
        )
    typer.echo(f"{entry.name}@{version.short}: {_state(room, entry, version)}")
    fields = {**plain(entry), "versions": None, **plain(version), "quality": None}
    files = fields["source"].pop("files", None)
    for name, value in _flat(fields):
        typer.echo(f"  {name:<28} {value}")
    if files is not None:
        n_bytes = human_size(sum(file["size_bytes"] for file in files))
        typer.echo(f"  {'source.files':<28} {count(len(files), 'file')}, {n_bytes}; --json names each with its hash")
    typer.echo(f"  {'quality':<28} {describe_quality(version)}")
    for adapter in _adapters(room, entry, version):
        typer.echo(f"  {'ask for it as':<28} {adapter['name']}: {_adapter_text(adapter)}")
    others = [other.short for other in entry.versions if other != version]
    if others:
        typer.echo(f"  {'other versions':<28} {', '.join(others)}")
    return None


def diff(
    old: Annotated[str, typer.Argument(help="A lock file, or NAME@VERSION.")],
    new: Annotated[str, typer.Argument(help="Another one of the same kind.")],
    json: Json = False,
) -> None:
    """Show what differs between two locks, or two versions.

    The exit status is 1 if anything does.
    """
    from appliance.cli.models.room import Room, print_json
    from appliance.models.lock import read_lock
    from appliance.models.lock_file import plain

    if Path(old).is_file() and Path(new).is_file():
        sides = [
            {
                entry.name: {**plain(entry), "versions": None}
                | {f"@{version.short}": plain(version) for version in entry.versions}
                for entry in read_lock(Path(path)).models
            }
            for path in (old, new)
        ]
    else:
        lock = Room().lock
        sides = [plain(lock.resolve(reference)[1]) for reference in (old, new)]
    before, after = (dict(_flat(side)) for side in sides)
    changes = [
        {"what": name, "old": before.get(name), "new": after.get(name)}
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    if json:
        print_json(changes)
    for change in changes if not json else ():
        for sign, side in (("-", "old"), ("+", "new")):
            if change[side] is not None:
                typer.echo(f"{sign} {change['what']} = {change[side]}")
    if not changes and not json:
        typer.echo("no difference")
    raise typer.Exit(1 if changes else 0)


def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME[@VERSION]]...", help="Models. [default: all that are stored]")
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte, also of files that look untouched.")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Convert and quantize again, and prove that the bytes are equal.")
    ] = False,
    json: Json = False,
) -> None:
    """Check that published files are what models.lock says. The exit status is 1 if one is not."""
    from appliance.cli.models.room import Room, print_json

    room = Room()
    lock = room.lock
    pairs = [lock.resolve(name) for name in names] if names else [(e, v) for e in lock.models for v in e.versions]
    results = []
    for entry, version in pairs:
        state, reason = _verified(room, entry, version, deep=deep, rebuild=rebuild)
        if state == "absent" and not names:
            continue
        results.append({"model": f"{entry.name}@{version.short}", "state": state, "reason": reason})
        if not json:
            typer.echo(f"{entry.name}@{version.short}: {state}" + (f": {reason}" if reason else ""))
    if json:
        print_json(results)
    elif not results:
        typer.echo("nothing is stored")
    raise typer.Exit(1 if any(result["state"] != "ok" for result in results) else 0)


def _verified(room: Room, entry: Entry, version: Version, *, deep: bool, rebuild: bool) -> tuple[str, str | None]:
    from appliance.cli.models.room import reference
    from appliance.models.lock import FileSource

    try:
        if deep and version.gguf is not None and room.store.is_published(entry, version):
            with room.report.stage(f"hashing {entry.name}", version.gguf.size_bytes, is_bytes=True) as advance:
                stored = room.store.verify(entry, version, advance)
        else:
            stored = room.store.find_version(entry, version)
        if stored is None:
            return "absent", f"build it with: appliance models build {reference(entry, version)}"
        if not room.store.has_companions(entry, version):
            return "failed", f"it is incomplete; build it with: appliance models build {reference(entry, version)}"
        if rebuild and isinstance(version.source, FileSource):
            return "ok", "it came from a file, and can't be made again"
        if rebuild:
            room.rebuild(entry, version)
    except ConfigError as error:
        return "failed", error.message
    return "ok", None


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Each leaf with its dotted name; files by their paths."""
    leaves: list[tuple[str, str]] = []
    for key, content in value.items():
        name = f"{prefix}{key}"
        if isinstance(content, dict):
            leaves += _flat(content, f"{name}.")
        elif isinstance(content, list) and content and isinstance(content[0], dict):
            rows = {str(row.get("path", row.get("name", number))): row for number, row in enumerate(content)}
            leaves += _flat(rows, f"{name}.")
        elif content is not None:
            leaves.append((name, ", ".join(map(str, content)) if isinstance(content, list) else str(content)))
    return leaves
