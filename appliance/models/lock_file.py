"""Writes ``models.lock``: comments and order stay, and only what changed is touched."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import tomlkit
from tomlkit.container import Container
from tomlkit.items import AoT, Item, Table, item

from appliance.errors import ConfigError
from appliance.files import exclusive, write_atomically
from appliance.models.lock import Entry, Lock, Part, Version, parse_lock, read_lock

_ENTRY, _VERSION = "[[models]]", "[[models.versions]]"
# Lists of tables that are written a line each.
_INLINE = {"files"}


def change_lock(path: Path, change: Callable[[Lock], Lock], *, seen: Lock | None = None) -> Lock:
    """Applies ``change`` to what the file says now, and writes the result; two processes take turns.

    ``seen``: what it said when ``change`` was thought out; if it says something else now, that is an error.

    Raises:
        ConfigError: the file can't be read or written, or what ``change`` made of it is no valid lock.
    """
    path = path.resolve()
    with exclusive(path.parent):
        before = read_lock(path)
        if seen is not None and before != seen:
            raise ConfigError(f"{path} was changed meanwhile; run the command again")
        after = change(before)
        if after == before:
            return after
        text = _rewritten(path.read_text("utf-8"), before, after).encode()
        if parse_lock(text, path) != after:
            raise ConfigError(
                f"{path} can't be changed as it is written; bring it into the form that `models add` writes"
            )
        write_atomically(path, text)
    return after


def validate(lock: Lock, path: Path) -> None:
    """Raises ConfigError if ``lock`` can't be written to ``path``: a name that is none, or stands in it twice."""
    parse_lock(tomlkit.dumps(plain(lock)).encode(), path)


def with_entry(lock: Lock, entry: Entry) -> Lock:
    """``lock`` with ``entry`` in the place of the one of the same name, or behind all others."""
    if any(other.name == entry.name for other in lock.models):
        models = tuple(entry if other.name == entry.name else other for other in lock.models)
    else:
        models = (*lock.models, entry)
    return msgspec.structs.replace(lock, models=models)


def without(lock: Lock, name: str, versions: tuple[Version, ...]) -> Lock:
    """``lock`` without some versions of an entry, and without the entry if none is left."""
    kept = []
    for entry in lock.models:
        left = tuple(version for version in entry.versions if entry.name != name or version not in versions)
        if left:
            kept.append(msgspec.structs.replace(entry, versions=left))
    return msgspec.structs.replace(lock, models=tuple(kept))


def plain(value: Part) -> dict[str, Any]:
    """A part of the lock as TOML's types, without what is at its default."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return found


def _rewritten(text: str, before: Lock, after: Lock) -> str:
    """Entry by entry, and version by version: what is as it was keeps its text, with the comments above and in it."""
    preamble, *texts = _blocks(text, _ENTRY)
    _check_blocks(texts, before.models, _ENTRY)
    known = {entry.name: (entry, text) for entry, text in zip(before.models, texts, strict=True)}
    written = [preamble]
    for entry in after.models:
        if entry.name in known:
            old, old_text = known[entry.name]
            written.append(old_text if entry == old else _changed_entry(old_text, old, entry))
        else:
            written.append(_block(tomlkit.document(), {}, plain(entry)))
    return _joined(written)


def _changed_entry(text: str, before: Entry, after: Entry) -> str:
    comments, body = _split_comments(text, _ENTRY)
    head, *texts = _blocks(body, _VERSION)
    _check_blocks(texts, before.versions, _VERSION)
    old_head, new_head = ({**plain(entry), "versions": []} for entry in (before, after))
    written = [comments + (head if new_head == old_head else _block(tomlkit.parse(head), old_head, new_head))]
    left = [pair for pair in zip(before.versions, texts, strict=True) if pair[0] not in after.versions]
    known = dict(zip(map(msgspec.json.encode, before.versions), texts, strict=True))
    changed = [version for version in after.versions if version not in before.versions]
    # New versions stand before those that were changed in their place.
    n_new = max(0, len(changed) - len(left))
    for version in after.versions:
        if version not in changed:
            written.append(known[msgspec.json.encode(version)])
        elif changed.index(version) < n_new:
            written.append(_version(tomlkit.document(), None, version))
        else:
            old, old_text = left[len(left) - len(changed) + changed.index(version)]
            above, old_body = _split_comments(old_text, _VERSION)
            written.append(above + _version(tomlkit.parse(f"{_ENTRY}\n{old_body}"), old, version))
    return _joined(written)


def _blocks(text: str, header: str) -> list[str]:
    """What stands before the first ``header``, then each one's text with the comments right above it."""
    blocks = [""]
    pending = ""  # comments that belong to whatever follows
    for line in text.splitlines(keepends=True):
        if line.strip() == header:
            blocks.append(pending + line)
            pending = ""
        elif line.startswith("#"):
            pending += line
        else:
            blocks[-1] += pending + line
            pending = ""
    blocks[-1] += pending
    return blocks


def _check_blocks(texts: list[str], parts: tuple[Part, ...], header: str) -> None:
    if len(texts) != len(parts):
        raise ConfigError(f"models.lock is written in a way that can't be changed here: want a line {header} for each")


def _split_comments(block: str, header: str) -> tuple[str, str]:
    at = 0
    for line in block.splitlines(keepends=True):
        if line.strip() == header:
            break
        at += len(line)
    return block[:at], block[at:]


def _joined(texts: list[str]) -> str:
    return "\n\n".join(text.strip("\n") for text in texts if text.strip()) + "\n"


def _version(document: tomlkit.TOMLDocument, before: Version | None, after: Version) -> str:
    old = {"versions": [plain(before)]} if before is not None else {}
    return _block(document, old, {"versions": [plain(after)]}).removeprefix(_ENTRY).lstrip("\n")


def _block(document: tomlkit.TOMLDocument, before: dict[str, Any], after: dict[str, Any]) -> str:
    """The text of an entry, of which ``document`` holds what there was."""
    _update(document, {"models": [before]} if before else {}, {"models": [after]})
    # An empty line before each table, also before those that were put in.
    return re.sub(r"^([^#\n].*)\n(?=\[)", r"\1\n\n", tomlkit.dumps(document), flags=re.MULTILINE)


def _update(table: Table | Container, before: dict[str, Any], after: dict[str, Any]) -> None:
    for key in before.keys() - after.keys():
        table.remove(key)
    # Plain values first: what follows a table's header belongs to that table.
    for key, value in sorted(after.items(), key=lambda pair: _is_nested(pair[1])):
        old = before.get(key)
        if value == old:
            continue
        if isinstance(value, dict) and isinstance(old, dict):
            _update(table[key], old, value)
        elif isinstance(table.get(key), AoT):
            _update_tables(table[key], old, value)  # type: ignore[arg-type]
        else:
            table[key] = _item(value, key)


def _update_tables(tables: AoT, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    """One stretch of them may have come or gone; the others are the same, or changed in their place."""
    same = 0
    while same < min(len(before), len(after)) and before[same] == after[same]:
        same += 1
    kept = list(before)
    for _ in range(len(before) - len(after)):
        del tables[same]
        del kept[same]
    for index in range(same, same + len(after) - len(before)):
        tables.insert(index, _table(after[index]))
        kept.insert(index, after[index])
    for table, old, new in zip(tables, kept, after, strict=True):
        _update(table, old, new)


def _item(value: Any, key: str) -> Item:
    if isinstance(value, dict):
        return _table(value)
    if not _is_list_of_tables(value):
        plain_item: Item = item(value)
        return plain_item
    if key in _INLINE:
        array = tomlkit.array().multiline(True)
        for row in value:
            inline = tomlkit.inline_table()
            inline.update(row)
            array.append(inline)
        return array
    tables = tomlkit.aot()
    for row in value:
        tables.append(_table(row))
    return tables


def _table(value: dict[str, Any]) -> Table:
    table = tomlkit.table()
    _update(table, {}, value)
    return table


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict) or _is_list_of_tables(value)


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)
