"""What the commands work with, put together from the settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer

from appliance import settings
from appliance.cli.progress import report
from appliance.errors import ConfigError
from appliance.models.builder import Builder
from appliance.models.convert import DEFAULT_PYTHON, Converter
from appliance.models.hub import Hub
from appliance.models.lock import Entry, Lock, Version, read_lock
from appliance.models.lock_file import change_lock
from appliance.models.pin import replaced
from appliance.models.sources import Sources
from appliance.models.store import ModelStore
from appliance.models.workshop import SCRATCH, Workshop
from appliance.state.current import CurrentVersions


class Room:
    def __init__(self) -> None:
        self.config = settings.load()
        self.report = report()
        self.store = ModelStore(self.config.models_dir, self.config.image_models_dir)
        self.workshop = Workshop(self.config.models_dir)
        self.sources = Sources(self.workshop, lambda: self.hub, self.report)

        self.versions = CurrentVersions(self.config.state_dir)

    @contextmanager
    def working(self) -> Iterator[None]:
        """As the workshop's ``entered``; Ctrl-C says what becomes of what was done."""
        try:
            with self.workshop.entered():
                yield
        except KeyboardInterrupt:
            typer.echo("stopped; what was done is kept, and the same command goes on from there", err=True)
            raise

    def current(self, entry: Entry) -> Version | None:
        """The version that `serve` takes: the one that was chosen, else the newest that is stored."""
        from appliance.service.versions import current_version

        try:
            stored = current_version(entry, self.store, self.versions)
        except ConfigError:
            return None
        return entry.version(stored.record.gguf_sha256) if stored is not None else None

    def rebuild(self, entry: Entry, version: Version) -> None:
        """Makes a version's file again in an empty place. Raises ConfigError if its bytes are others."""
        with self.workshop.entered(), TemporaryDirectory(prefix=SCRATCH, dir=self.workshop.root) as scratch:
            workshop = Workshop(Path(scratch), self.workshop.imatrix_dir)
            with workshop.entered():
                self.builder(workshop=workshop).make(entry, version)

    @property
    def lock(self) -> Lock:
        return read_lock(self.config.models_lock)

    @cached_property
    def hub(self) -> Hub:
        return Hub(self.workshop.hub_home)

    def builder(self, *, allow_code: bool = False, workshop: Workshop | None = None) -> Builder:
        from appliance.hardware.cpu import physical_cores

        workshop = workshop or self.workshop
        return Builder(
            store=self.store,
            workshop=workshop,
            lock_path=self.config.models_lock,
            sources=self.sources,
            converter=self.converter,
            report=self.report,
            n_threads=self.config.n_threads or physical_cores(),
            allow_code=allow_code,
        )

    @cache  # noqa: B019 - lives as long as the command
    def converter(self) -> Converter:
        return Converter(self.config.converter_python or DEFAULT_PYTHON.absolute(), self.report)

    def record(self, entry: Entry, old: Version, new: Version) -> None:
        """Writes what became known of a version into models.lock."""
        if new != old:
            change_lock(self.config.models_lock, lambda lock: replaced(lock, entry.name, old, new))


def reference(entry: Entry, version: Version) -> str:
    """What commands take for this version. The newest is meant by the name alone."""
    return entry.name if version == entry.versions[0] else f"{entry.name}@{version.short}"


def human_size(n_bytes: int) -> str:
    """As a person reads it: 98.4 MB."""
    from rich.filesize import decimal

    return decimal(n_bytes)


def count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def print_result(value: Any, words: str, *, json: bool) -> None:
    """What a command did: as one JSON document, or in words."""
    print_json(value) if json else typer.echo(words)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def print_rows(rows: list[dict[str, Any]], line: Callable[[dict[str, Any]], str], *, empty: str, json: bool) -> None:
    """A list as it came as JSON, or ``line`` of each; ``empty`` says that there is none."""
    if json:
        return print_json(rows)
    if not rows:
        typer.echo(empty)
    for row in rows:
        typer.echo(line(row))
    return None
