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

_HEADER = "[[models]]"
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
    """Entry by entry: those that are as they were keep their text, with the comments above and in them."""
    preamble, *blocks = _blocks(text)
    if len(blocks) != len(before.models):
        raise ConfigError("models.lock is written in a way that can't be changed here: want one [[models]] an entry")
    texts = {entry.name: block for entry, block in zip(before.models, blocks, strict=True)}
    known = {entry.name: entry for entry in before.models}
    written = [preamble]
    for entry in after.models:
        old = known.get(entry.name)
        if old is None:
            written.append(_block(tomlkit.document(), {}, plain(entry)))
        elif old == entry:
            written.append(texts[entry.name])
        else:
            head, body = _split_comments(texts[entry.name])
            written.append(head + _block(tomlkit.parse(body), plain(old), plain(entry)))
    return "\n\n".join(part.strip("\n") for part in written if part.strip()) + "\n"


def _blocks(text: str) -> list[str]:
    """What stands before the first entry, then each entry with the comments right above it."""
    blocks = [""]
    pending = ""  # comments that belong to whatever follows
    for line in text.splitlines(keepends=True):
        if line.strip() == _HEADER:
            blocks.append(pending + line)
            pending = ""
        elif line.startswith("#"):
            pending += line
        else:
            blocks[-1] += pending + line
            pending = ""
    blocks[-1] += pending
    return blocks


def _split_comments(block: str) -> tuple[str, str]:
    at = 0
    for line in block.splitlines(keepends=True):
        if line.strip() == _HEADER:
            break
        at += len(line)
    return block[:at], block[at:]


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
