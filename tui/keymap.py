"""Which keys do what: the ids of all bindings, and whether a user's keys for them make sense."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from importlib import import_module
from pkgutil import iter_modules

from textual.app import App
from textual.binding import Binding, BindingType
from textual.dom import DOMNode
from textual.keys import KEY_NAME_REPLACEMENTS, KEY_TO_UNICODE_NAME, Keys

import tui.screens

_MODIFIERS = frozenset({"ctrl", "alt", "shift", "super", "hyper", "meta"})
_NAMED = frozenset(key.value for key in Keys) | KEY_TO_UNICODE_NAME.keys() | set(KEY_NAME_REPLACEMENTS.values())


def bindings_of(declared: Iterable[BindingType]) -> list[Binding]:
    """Those with an id, which can be given other keys."""
    return [binding for binding in declared if isinstance(binding, Binding) and binding.id is not None]


def known_bindings() -> dict[str, Binding]:
    """Of the app, all its screens and their widgets, by id. It loads all screens."""
    for module in iter_modules(tui.screens.__path__, "tui.screens."):
        import_module(module.name)
    return {binding.id: binding for kind in own_kinds(DOMNode) for binding in bindings_of(kind.BINDINGS) if binding.id}


def problem_of(keys: Mapping[str, str]) -> str | None:
    """The first thing that is wrong with a user's keys, as a sentence; None: nothing is."""
    if not keys:
        return None
    known = known_bindings()
    for name, wanted in keys.items():
        if name not in known:
            return f'"{name}" is nothing that a key can be given to; such are {_near(name, known)}.'
        for key in wanted.split(","):
            if not _is_key(key.strip()):
                return f'"{key.strip()}", given for "{name}", is no key; such are ctrl+x, f9, alt+enter and slash.'
    return _clash(keys)


def _clash(keys: Mapping[str, str]) -> str | None:
    """Two things that one key would do, where the user gave it to one of them: the other could not be done."""
    kinds = list(own_kinds(DOMNode))
    everywhere = [binding for kind in kinds if issubclass(kind, App) for binding in bindings_of(kind.BINDINGS)]
    for kind in kinds:
        taken: dict[str, str] = {}
        for binding in (*bindings_of(kind.BINDINGS), *everywhere):
            name = str(binding.id)
            for key in keys.get(name, binding.key).split(","):
                other = taken.setdefault(key.strip(), name)
                if other != name and not keys.keys().isdisjoint({name, other}):
                    return f'"{key.strip()}" would be the key of both "{other}" and "{name}".'
    return None


def own_kinds(kind: type[DOMNode]) -> Iterable[type[DOMNode]]:
    """The app's own classes below ``kind``; Textual's have ids that mean nothing here."""
    for child in kind.__subclasses__():
        if child.__module__.startswith("tui."):
            yield child
        yield from own_kinds(child)


def _near(name: str, known: Iterable[str]) -> str:
    """Those of the same section, if there is one."""
    family = name.partition(".")[0] + "."
    return ", ".join(sorted(other for other in known if other.startswith(family)) or sorted(known)[:8])


def _is_key(key: str) -> bool:
    *modifiers, last = key.split("+") if key != "+" else ["+"]
    if not set(modifiers) <= _MODIFIERS or not last:
        return False
    if len(last) == 1:
        return last.isprintable() and not last.isspace()
    return last in _NAMED or _is_character_name(last)


def _is_character_name(key: str) -> bool:
    try:
        unicodedata.lookup(key.replace("_", " "))
    except KeyError:
        return False
    return True
