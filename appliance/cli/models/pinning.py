"""The commands that write models into models.lock."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.cli.options import Json
from appliance.errors import ConfigError

if TYPE_CHECKING:
    from appliance.cli.models.room import Room
    from appliance.models.lock import TemplateFile

Repo = Annotated[str, typer.Argument(metavar="REPO[@REV]", help="Repository on the hub, and a branch, tag or commit.")]
Template = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Chat template to serve with instead of the model's, kept beside models.lock."),
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
    chat_template: Template = None,
    projector: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="The GGUF file for images, kept beside the model (not served yet)."),
    ] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Take weights in a format that may run code, if there is no other.")
    ] = False,
    json: Json = False,
) -> None:
    """Pin a model of the hub in models.lock: its commit and file hashes.

    Called again, it fills in what is missing. `appliance models build` makes the file then.
    """
    from appliance.cli.models.room import Room, count, human_size, print_result, reference
    from appliance.models.lock import HubSource
    from appliance.models.lock_file import change_lock, with_entry
    from appliance.models.pin import Wish, keep_imatrix, parse_repo, pin

    room = Room()
    name_on_hub, revision = parse_repo(repo)
    if base is not None:
        if quant or file or imatrix or tensor_type or chat_template or projector or allow_pickle:
            raise ConfigError("--base: an adapter takes --name only besides; the other options are for models")
        return _add_adapter(room, name_on_hub, revision, name, base, json=json)
    tensor_types = dict(_tensor_type(text) for text in tensor_type or ())
    template = _template(room, chat_template)
    with room.working():
        wish = Wish(
            name_on_hub,
            revision,
            name,
            quant,
            tuple(file or ()),
            allow_pickle,
            keep_imatrix(imatrix, room.workshop) if imatrix is not None else None,
            tensor_types,
            projector,
            template,
        )
        before = room.lock
        entry, version = pin(wish, before, room.hub, room.sources, room.workshop)
        if room.store.is_published(entry, version):  # a running server may follow the lock
            room.builder().publish_template(entry, version)
        after = change_lock(room.config.models_lock, lambda lock: with_entry(lock, entry), seen=before)
    is_built = room.store.is_published(entry, version) and room.store.has_companions(entry, version)
    build = "it is built already" if is_built else f"build it with: appliance models build {reference(entry, version)}"
    source = version.source
    assert isinstance(source, HubSource)
    changed = "is pinned:" if after != before else "was pinned already:"
    beside = ", with a projector" * (version.projector is not None)
    beside += ", with a chat template of yours" * (version.chat_template is not None)
    result = {
        "name": entry.name,
        "version": version.short,
        "repo": source.repo,
        "revision": source.revision,
        "n_files": len(source.files),
        "size_bytes": source.n_bytes,
        "quantization": version.quantization,
        "license": entry.license,
        "changed": after != before,
    }
    print_result(
        result,
        f"{entry.name} {changed} {source.repo} at {source.revision}: {count(len(source.files), 'file')}, "
        f"{human_size(source.n_bytes)}, to {version.quantization}, license {entry.license}{beside}\n"
        f"{build}",
        json=json,
    )
    return None


def _add_adapter(room: Room, repo: str, revision: str | None, name: str | None, base: str, *, json: bool) -> None:
    from appliance.cli.models.room import print_result, reference
    from appliance.models.adapters import pin_adapter
    from appliance.models.pin import default_name

    with room.working():
        entry, version = room.lock.resolve(base)
        name = name or default_name(repo)
        pinned = pin_adapter(repo, revision, name, version, room.hub, room.sources)
        room.record(entry, version, pinned)
        wanted = reference(entry, version)
    (source,) = (adapter.source for adapter in pinned.adapters if adapter.name == name)
    result = {
        "name": entry.name,
        "version": version.short,
        "adapter": name,
        "repo": source.repo,
        "revision": source.revision,
        "changed": pinned != version,
    }
    print_result(
        result,
        f"the adapter {name} is pinned for {entry.name}@{version.short}: {source.repo} at {source.revision}\n"
        f"build it with: appliance models build {wanted}",
        json=json,
    )


def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="A model file of your own, in one piece.")],
    name: Annotated[str | None, typer.Option(help="Its name here. [default: the file's]")] = None,
    license: Annotated[str, typer.Option(help="Its licence, by its SPDX identifier.")] = "unknown",  # noqa: A002
    chat_template: Template = None,
    json: Json = False,
) -> None:
    """Pin and publish a GGUF file that is here already. A link is made where that is possible, else a copy."""
    import msgspec

    from appliance.cli.models.room import Room, print_result
    from appliance.models.builder import file_type
    from appliance.models.lock import Entry, FileSource, Version
    from appliance.models.lock_file import change_lock, validate, with_entry
    from appliance.models.pin import default_name
    from appliance.models.store import describe

    room = Room()
    template = _template(room, chat_template)
    with room.working():
        kind = file_type(file) or "unknown"
        with room.report.stage(f"hashing {file.name}", file.stat().st_size, is_bytes=True) as advance:
            gguf = describe(file, advance)
        seen = room.lock
        entry_name = name or default_name(file.stem)
        entry = next((entry for entry in seen.models if entry.name == entry_name), None)
        versions = entry.versions if entry is not None else ()
        version = next((v for v in versions if v.gguf is not None and v.gguf.sha256 == gguf.sha256), None)
        if version is None:
            file_name = file.name.encode("utf-8", "replace").decode()
            version = Version(FileSource(file_name), kind, gguf=gguf)
            versions = (version, *versions)
        done = msgspec.structs.replace(version, chat_template=template or version.chat_template)
        versions = tuple(done if each is version else each for each in versions)
        entry = msgspec.structs.replace(entry or Entry(entry_name, license, versions), versions=versions)
        after = with_entry(seen, entry)
        validate(after, room.config.models_lock)  # before anything is named after it
        stored = room.builder().publish(entry, done, file, gguf)
        change_lock(room.config.models_lock, lambda lock: with_entry(lock, entry), seen=seen)
    result = {"name": entry.name, "version": done.short, "path": str(stored.path), "changed": after != seen}
    print_result(result, f"{entry.name}@{done.short} is in {stored.path}", json=json)


def _template(room: Room, path: Path | None) -> TemplateFile | None:
    """Raises ConfigError if it isn't beside the lock, or couldn't be served with."""
    if path is None:
        return None
    from appliance.chat.template import ChatTemplate
    from appliance.models.template_file import pin_template, read_template

    template = pin_template(path, room.config.models_lock)
    source = read_template(template, room.config.models_lock).decode()
    try:
        ChatTemplate(source, bos_token="", eos_token="", control_tokens=())
    except ConfigError as error:
        raise ConfigError(f"--chat-template {path}: {error.message}") from None
    return template


def _tensor_type(text: str) -> tuple[str, str]:
    pattern, _, kind = text.rpartition("=")
    if not pattern or not kind:
        raise ConfigError(f"--tensor-type {text}: want PATTERN=TYPE, as in 'attn_v=q8_0'")
    return pattern, kind.upper()
