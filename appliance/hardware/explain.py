"""What the fit decided and why, in words."""

from __future__ import annotations

from collections.abc import Iterable

from appliance.hardware.estimate import RunShape
from appliance.hardware.memory_use import MIB, RAM, format_bytes


def context(n_ctx: int, n_default: int, n_trained: int) -> str:
    if n_ctx == n_trained and n_trained <= n_default:
        return f"n_ctx={n_ctx}: what the model was trained for"
    if n_ctx == n_default:
        return f"n_ctx={n_ctx}: the default"
    return f"n_ctx={n_ctx}: twice as much doesn't fit"


def adapters(n_contexts: int) -> str:
    most = "one adapter" if n_contexts == 2 else f"{n_contexts - 1} adapters"
    return f"{n_contexts} contexts of that size: the model's own, and {most} at a time beside it"


def draft() -> str:
    return "its draft model beside it, on the same devices and with a context of that size"


def layers(n_on_gpus: int, n_layers: int, gpus: tuple[str, ...]) -> str:
    if n_on_gpus == 0:
        return "no layer on a GPU: not one fits"
    where = _listed(gpus)
    if n_on_gpus == n_layers:
        return f"all {n_layers} layers on {where}: they fit"
    return f"{n_on_gpus} of {n_layers} layers on {where}: one more doesn't fit"


def split(tensor_split: tuple[float, ...], gpus: tuple[str, ...]) -> str:
    counts = ", ".join(f"{int(part)} on {gpu}" for part, gpu in zip(tensor_split, gpus, strict=False))
    return f"layers divided {counts}: so that all are about as full"


def experts(n_cpu_moe: int) -> str:
    return f"experts of the first {n_cpu_moe} layers in RAM: that leaves room for whole layers on the GPU"


def stepped_down(before: RunShape, after: RunShape, n_layers: int) -> str:
    if after.n_ctx != before.n_ctx:
        return f"n_ctx={after.n_ctx} instead of {before.n_ctx}: memory ran out"
    if after.n_cpu_moe != before.n_cpu_moe:
        return f"experts of the first {after.n_cpu_moe} layers in RAM instead of {before.n_cpu_moe}: memory ran out"
    had = n_layers if before.n_gpu_layers < 0 else min(before.n_gpu_layers, n_layers)
    return f"{after.n_gpu_layers} of {n_layers} layers on GPUs instead of {had}: memory ran out"


def refusal(run: RunShape, chosen: tuple[str, ...], shortages: dict[str, tuple[int, int]], remedies: list[str]) -> str:
    """``chosen`` are the names of the settings that an operator chose; ``shortages`` what each device wants and has."""
    settings = " and ".join(f"{name}={getattr(run, name)}" for name in chosen)
    subject = settings or f"the model, even with n_ctx={run.n_ctx},"
    verb = "want" if len(chosen) > 1 else "wants"
    wants = " and ".join(
        f"{wanted} of {'RAM' if device == RAM else device}, where {free} is free"
        for device, (wanted, free) in ((device, _apart(*pair)) for device, pair in shortages.items())
    )
    return f"{subject} {verb} {wants}; {' or '.join(remedies)}"


def _apart(wanted: int, free: int) -> tuple[str, str]:
    """Both sizes, in a unit that tells them apart."""
    if (texts := (format_bytes(wanted), format_bytes(free)))[0] != texts[1]:
        return texts
    return f"{-(-wanted // MIB)} MiB", f"{free // MIB} MiB"


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
