"""What each model takes of each device: weights, KV cache and compute buffers."""

from __future__ import annotations

from appliance.schemas.admin import DeviceMemory, ModelStatus
from tui.figures import size_text
from tui.snapshot import Snapshot
from tui.widgets.gauges import Bar, Gauge, Line, Note

_LEGEND = "w weights, k KV cache, c compute, o other"


def memory_lines(snapshot: Snapshot) -> tuple[Line, ...]:
    """A title for each loaded model, and a bar and its figures for each of its devices."""
    if snapshot.status is None:
        return ()
    loaded = [model for model in snapshot.status.models if model.engine is not None and model.engine.memory]
    if not loaded:
        return (Note("No model is loaded."),)
    sizes = _sizes(snapshot)
    lines: list[Line] = []
    for model in loaded:
        lines += _model(model, sizes)
    return (*lines, Note(_LEGEND, "$text-muted"))


def _model(model: ModelStatus, sizes: dict[str, int]) -> list[Line]:
    assert model.engine is not None
    lines: list[Line] = [Note(f"{model.name}@{model.version[:8]}  {model.state}", "bold")]
    for device, use in model.engine.memory.items():
        total = _total(use)
        whole = sizes.get(device)
        parts = tuple((sign, n_bytes / max(whole or total, 1)) for sign, n_bytes in _parts(use))
        of_all = f" of {size_text(whole)}" if whole else ""
        lines.append(Gauge(device, f"{size_text(total)}{of_all}", Bar(parts)))
        figures = ", ".join(f"{sign} {size_text(n_bytes)}" for sign, n_bytes in _parts(use))
        lines.append(Note(f"  {figures}", "$text-muted"))
    return lines


def _parts(use: DeviceMemory) -> tuple[tuple[str, int], ...]:
    return (("w", use.weights_bytes), ("k", use.kv_bytes), ("c", use.compute_bytes), ("o", use.overhead_bytes))


def _total(use: DeviceMemory) -> int:
    return sum(n_bytes for _, n_bytes in _parts(use))


def _sizes(snapshot: Snapshot) -> dict[str, int]:
    """By the devices' names in an engine's memory. llama.cpp counts GPUs in its own order, so theirs aren't known."""
    return {"RAM": snapshot.hardware.ram.limit_bytes} if snapshot.hardware is not None else {}
