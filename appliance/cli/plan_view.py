"""A model's plan as people read it, whether it was imagined or came from a server."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

import typer

from appliance.hardware.memory_use import RAM, format_bytes
from appliance.schemas.admin import ModelPlan, TotalMemory

_PARTS = ("weights", "kv", "compute", "overhead", "total")
_TITLES = ("weights", "KV", "compute", "other", "total", "measured")


def show_plan(plan: ModelPlan, number: int | None = None) -> None:
    """``number``: its place among several."""
    typer.echo(f"\n{f'{number}. ' if number else ''}{plan.model}  {plan.quantization}")
    if plan.evicted:
        typer.echo(f"  would unload {', '.join(plan.evicted)}")
    if plan.run is None:
        _wrapped(f"does not fit: {plan.error}")
        return
    if plan.was_loaded:
        typer.echo("  is loaded already")
        return
    for reason in plan.reasons or (f"n_ctx={plan.run.n_ctx}",):
        _wrapped(reason)
    typer.echo(f"  {'':<6} {'layers':>6}" + "".join(f" {title:>9}" for title in _TITLES))
    for device in plan.devices:
        if device.estimated is not None:
            measured = format_bytes(device.measured.total_bytes) if device.measured is not None else "-"
            cells = [*_parts(device.estimated), measured]
            typer.echo(f"  {device.device:<6} {device.layers:>6}" + "".join(f" {cell:>9}" for cell in cells))


def rooms_now(plan: ModelPlan) -> str:
    """What models may take of each device beside those that are loaded."""
    return _listed((device.device, device.free_bytes) for device in plan.devices)


def rooms_then(plan: ModelPlan) -> str:
    """The same, once the plan is carried out."""
    return _listed((device.device, device.free_then_bytes) for device in plan.devices)


def _parts(use: TotalMemory) -> list[str]:
    return [format_bytes(getattr(use, f"{part}_bytes")) for part in _PARTS]


def _listed(rooms: Iterable[tuple[str, int]]) -> str:
    texts = [f"{format_bytes(free)} {'of RAM' if device == RAM else f'on {device}'}" for device, free in rooms]
    return ", ".join(texts) + (", no GPU" if len(texts) == 1 else "")


def _wrapped(text: str) -> None:
    typer.echo(textwrap.fill(text, 78, initial_indent="  ", subsequent_indent="    "))
