"""Results: one JSON file for each workload and model, with every round as it was measured."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from bench.bench import Options
from bench.figures import Summary, summarize
from bench.ggufs import Gguf
from bench.rounds import Rounds
from bench.workloads.base import Measured, Workload

SCHEMA = 1
FOLDER = Path(__file__).parent / "results"


class Result(msgspec.Struct, frozen=True):
    """``model`` is the model's name, ``gguf_type`` its quantization; both None where none was measured.

    ``contestants`` maps names to versions and flags, ours first.
    """

    schema: int
    workload: str
    title: str
    mode: str
    machine: dict[str, str | int | float]
    model: str | None
    gguf_type: str | None
    settings: dict[str, int]
    contestants: dict[str, str]
    summaries: tuple[Summary, ...]
    rounds: Rounds


def make_result(
    workload: Workload, measured: Measured, options: Options, gguf: Gguf, machine: dict[str, str | int | float]
) -> Result:
    names = tuple(measured.contestants)
    return Result(
        schema=SCHEMA,
        workload=workload.name,
        title=workload.title,
        mode="quick" if options.is_quick else "full",
        machine=machine,
        model=gguf.name if workload.has_model else None,
        gguf_type=gguf.type if workload.has_model else None,
        settings=measured.settings,
        contestants=measured.contestants,
        summaries=tuple(summarize(figure, measured.rounds.kept, names) for figure in workload.figures),
        rounds=measured.rounds,
    )


def write_result(result: Result, folder: Path) -> Path:
    """Writes the result's file, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = _path(folder, result.workload, result.gguf_type)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    os.replace(part, path)
    return path


def delete_result(workload: Workload, gguf: Gguf, folder: Path) -> None:
    """Deletes what an earlier run found, if there is anything."""
    _path(folder, workload.name, gguf.type if workload.has_model else None).unlink(missing_ok=True)


def _path(folder: Path, workload: str, gguf_type: str | None) -> Path:
    return folder / (f"{workload}.{gguf_type.lower()}.json" if gguf_type else f"{workload}.json")


def read_results(folder: Path, order: tuple[str, ...]) -> list[Result]:
    """All results in a folder, in the order of their workloads; files of another schema are left out."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            result = msgspec.json.decode(path.read_bytes(), type=Result)
        except msgspec.DecodeError:
            continue  # the soak's, or a file of another release
        if result.schema == SCHEMA and result.workload in order:
            found.append(result)
    return sorted(found, key=lambda result: (result.gguf_type or "~", order.index(result.workload)))
