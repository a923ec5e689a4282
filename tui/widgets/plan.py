"""What loading a model would do, and what memory one takes, as text."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from appliance.schemas.admin import DeviceMemory, DevicePlan, ModelPlan
from tui.figures import count_text, printable, size_text

_TITLES = ("device", "layers", "weights", "KV", "compute", "other", "total", "free now", "then")


def plan_text(plan: ModelPlan) -> Content:
    """Whether it fits, what makes way for it, and what it takes of each device."""
    parts: list[Content] = []
    if plan.error is not None:
        parts.append(Content.styled(f"! It does not fit: {printable(plan.error)}.", "$text-error"))
    elif plan.was_loaded:
        parts.append(Content("It is loaded already, or is being loaded."))
    else:
        parts.append(_evicted(plan.evicted))
    if plan.run is not None:
        parts.append(Content(f"Context of {plan.run.n_ctx} tokens; {_layers(plan.devices)}."))
    parts += [Content(f"- {printable(reason)}") for reason in plan.reasons]
    return Content("\n").join([*parts, Content(), _devices(plan.devices)])


def memory_text(memory: dict[str, DeviceMemory]) -> Content:
    """A line for each device: what a model takes of it, in all and by part."""
    return Content("\n").join(Content(_memory_line(device, use)) for device, use in memory.items())


def _evicted(keys: Sequence[str]) -> Content:
    if not keys:
        return Content("It fits; no other model is unloaded for it.")
    listed = ", ".join(map(printable, keys))
    return Content.styled(f"! It fits once {listed} {'is' if len(keys) == 1 else 'are'} unloaded.", "$text-warning")


def _layers(devices: Sequence[DevicePlan]) -> str:
    n_all = sum(device.layers for device in devices)
    n_on_gpus = sum(device.layers for device in devices[1:])
    return f"{n_on_gpus} of {count_text(n_all, 'layer')} on GPUs"


def _devices(devices: Sequence[DevicePlan]) -> Content:
    """RAM, then each GPU. Where a model was run so before, what it took then is known better."""
    rows = [_TITLES, *map(_device_cells, devices)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        " ".join(f"{cell:>{width}}" if number else f"{cell:<{width}}" for number, (cell, width) in enumerate(row))
        for row in (zip(cells, widths, strict=True) for cells in rows)
    ]
    is_measured = any(device.measured is not None for device in devices)
    source = "As measured when it was run so before." if is_measured else "Sizes are estimated."
    table = [Content.styled(lines[0], "bold"), *map(Content, lines[1:])]
    if all(device.estimated is None for device in devices):
        return Content("\n").join(table)
    return Content("\n").join([*table, Content.styled(source, "$text-muted")])


def _device_cells(device: DevicePlan) -> tuple[str, ...]:
    use = device.measured or device.estimated
    sizes = ("-",) * 5 if use is None else (*_parts(use), size_text(use.total_bytes))
    free = size_text(device.free_bytes), size_text(device.free_then_bytes)
    return (device.device, str(device.layers), *sizes, *free)


def _parts(use: DeviceMemory) -> tuple[str, ...]:
    return tuple(map(size_text, (use.weights_bytes, use.kv_bytes, use.compute_bytes, use.overhead_bytes)))


def _memory_line(device: str, use: DeviceMemory) -> str:
    weights, kv, compute, other = _parts(use)
    total = size_text(use.weights_bytes + use.kv_bytes + use.compute_bytes + use.overhead_bytes)
    return f"{device} {total}: weights {weights}, KV {kv}, compute {compute}, other {other}"
