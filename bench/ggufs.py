"""The model files that are measured."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from appliance import settings
from appliance.errors import ConfigError
from appliance.models.builder import file_type
from appliance.models.gguf_file import read_gguf
from appliance.models.lock import read_lock
from appliance.models.store import ModelStore
from bench.errors import BenchError
from bench.process import ROOT, run_tool
from bench.progress import Progress
from scripts.llama_wheel import cache_dir

# What --gguf takes besides a path: the default model as it ships, and in the type with repacked kernels.
DEFAULT_TYPES = ("q4_0", "q4_1")


@dataclass(frozen=True)
class Gguf:
    """``type`` is the quantization as llama.cpp writes it, such as Q4_0."""

    path: Path
    name: str
    type: str


async def find_gguf(wanted: str, scratch: Path, say: Progress) -> Gguf:
    """The file that ``--gguf`` names; Q4_0 of the default model is made if it isn't there yet.

    Raises:
        BenchError: there is no such file, or it is no model.
    """
    if wanted == "q4_1":
        return _read(_default())
    if wanted == "q4_0":
        return _read(await _requantized(scratch, say))
    path = Path(wanted).expanduser()
    if not path.is_file():
        raise BenchError(f"--gguf {wanted}: there is no such file; want a path, or one of {', '.join(DEFAULT_TYPES)}")
    return _read(path.resolve())


def _default() -> Path:
    """The default model's file as it was published."""
    stored = ModelStore(settings.load().models_dir).find(read_lock(ROOT / "models.lock").entry(None))
    if stored is None:
        raise BenchError("the default model is not there: fetch it with `.venv/bin/appliance models fetch`")
    return stored.path


async def _requantized(scratch: Path, say: Progress) -> Path:
    source = _default()
    target = cache_dir() / "bench" / f"{source.parent.parent.name}-{source.parent.name}-q4_0.gguf"
    if target.exists():
        return target
    say("making Q4_0 of the default model")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}.part")
    try:
        # From Q4_1, which has lost some already: good enough to measure speed.
        request: dict[str, object] = {
            "source": str(source),
            "target": str(part),
            "file_type": "Q4_0",
            "tensor_types": {},
            "imatrix": None,
            "allow_requantize": True,
            "n_threads": psutil.cpu_count() or 1,
        }
        command = [sys.executable, "-m", "appliance.engine.llama.quantize", json.dumps(request)]
        await run_tool(command, log=scratch / "quantize.log")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _read(path: Path) -> Gguf:
    try:
        metadata = read_gguf(path).metadata
    except ConfigError as error:
        raise BenchError(error.message) from None
    return Gguf(path, metadata.get("general.name", path.stem), file_type(path) or "unknown")
