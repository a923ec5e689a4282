"""What is published beside a model's file: adapters, a projector for images, a chat template to be used instead.

Each has its hash in its name: what the lock says next is another file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from appliance.models.lock import SHORT_SHA, Adapter, SourceFile, TemplateFile, Version

_OURS = re.compile(rf"(adapters/.+|mmproj|chat_template)-[0-9a-f]{{{SHORT_SHA}}}\.(gguf|jinja)")


class Companion(msgspec.Struct, frozen=True):
    """``path`` is relative to the model's folder; ``what`` is what it is called in messages."""

    what: str
    path: str
    sha256: str


def companions(version: Version) -> tuple[Companion, ...]:
    """All that a version is complete with. Adapters that were never converted are not among them."""
    found = [of_adapter(adapter) for adapter in version.adapters if adapter.gguf is not None]
    if version.projector is not None:
        found.append(of_projector(version.projector))
    if version.chat_template is not None:
        found.append(of_template(version.chat_template))
    return tuple(found)


def of_adapter(adapter: Adapter) -> Companion:
    if adapter.gguf is None:
        raise ValueError(f"the lock says nothing of the file of the adapter {adapter.name}")
    sha256 = adapter.gguf.sha256
    return Companion(f"the adapter {adapter.name}", f"adapters/{adapter.name}-{sha256[:SHORT_SHA]}.gguf", sha256)


def of_projector(projector: SourceFile) -> Companion:
    return Companion("the projector", f"mmproj-{projector.sha256[:SHORT_SHA]}.gguf", projector.sha256)


def of_template(template: TemplateFile) -> Companion:
    return Companion("the chat template", f"chat_template-{template.sha256[:SHORT_SHA]}.jinja", template.sha256)


def published_companions(folder: Path) -> Iterator[Path]:
    """The files of this kind in a model's folder, whether the lock names them or not; no others."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and _OURS.fullmatch(path.relative_to(folder).as_posix()):
            yield path
