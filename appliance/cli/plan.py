"""``appliance plan``: what models would take of the memory, without loading any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.hardware.fit import Fit, Room
    from appliance.hardware.gpus import GPUProbe
    from appliance.hardware.memory_use import DeviceMemory
    from appliance.service.forecast import Forecast, Step
    from appliance.settings import Settings
    from appliance.supervisor.budget import Budget
    from appliance.supervisor.planner import Planner

_PARTS = ("weights", "kv", "compute", "overhead")
_TITLES = ("weights", "KV", "compute", "other", "total", "measured")


def plan(
    models: Annotated[
        list[str],
        typer.Argument(metavar="NAME[@VERSION]...", help="Models, in the order in which they would be asked for."),
    ],
    gpu_memory: Annotated[
        list[str] | None,
        typer.Option(
            help="A GPU with so much memory, such as 24GiB; once for each, 0: none. [default: this machine's]"
        ),
    ] = None,
    ram: Annotated[
        str | None, typer.Option(help="RAM that models may take, such as 64GiB. [default: what is free here]")
    ] = None,
    n_ctx: Annotated[
        int | None, typer.Option(min=64, max=1 << 24, help="KV cache size in tokens. [default: from the settings]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what models would take of RAM and GPUs, and which would be unloaded for others. Nothing is loaded.

    The exit status is 1 if one doesn't fit.
    """
    import dataclasses

    import msgspec

    from appliance import settings
    from appliance.cli.memory import planner
    from appliance.cli.models.room import print_json
    from appliance.hardware.gpus import GPUProbe
    from appliance.models.store import ModelStore
    from appliance.service.catalog import Catalog
    from appliance.service.forecast import forecast

    config = settings.load(n_ctx=n_ctx)
    probe = GPUProbe()
    budget, by_rules = _budget(config, probe, ram, gpu_memory), planner(config, probe)
    catalog = Catalog(config, ModelStore(config.models_dir, config.image_models_dir))
    specs = [catalog.resolve(name).spec for name in models]
    if n_ctx is not None:  # above what is set for a single model, too
        specs = [dataclasses.replace(s, wanted=msgspec.structs.replace(s.wanted, n_ctx=n_ctx)) for s in specs]
    view = _View(by_rules, budget)
    found = forecast(specs, budget, by_rules)
    if as_json:
        print_json(view.plain(found))
    else:
        view.show(found)
    raise typer.Exit(1 if any(step.fit is None for step in found.steps) else 0)


def _budget(config: Settings, probe: GPUProbe, ram: str | None, gpu_memory: list[str] | None) -> Budget:
    """Raises ConfigError for what is no size."""
    from appliance.cli.memory import machine_budget
    from appliance.hardware.memory_use import parse_bytes
    from appliance.service.forecast import ImaginedBudget
    from appliance.supervisor.machine_budget import MachineBudget

    gpu_bytes = None
    if gpu_memory is not None:
        gpu_bytes = [parse_bytes(size, "--gpu-memory") for size in gpu_memory if size != "0"]
    ram_bytes = parse_bytes(ram, "--ram") if ram is not None else None
    # llama.cpp is asked for its GPUs only if they matter.
    real = machine_budget(config, probe) if gpu_bytes is None else MachineBudget(probe)
    if gpu_bytes is None and ram_bytes is None:
        return real
    return ImaginedBudget(real, ram_bytes=ram_bytes, gpu_bytes=gpu_bytes)


class _View:
    def __init__(self, planner: Planner, budget: Budget) -> None:
        self._planner = planner
        self._rooms = budget.rooms(())

    def show(self, found: Forecast) -> None:
        typer.echo(f"with {_listed(self._rooms)}:")
        for number, step in enumerate(found.steps, 1):
            self._show_step(number if len(found.steps) > 1 else None, step)
        loaded = ", ".join(key for key in found.loaded) or "nothing"
        typer.echo(f"\nthen loaded  {loaded}")
        typer.echo(f"then free    {_listed(found.rooms)}")

    def _show_step(self, number: int | None, step: Step) -> None:
        record = step.spec.stored.record
        typer.echo(f"\n{f'{number}. ' if number else ''}{step.spec.key}  {record.quantization}")
        if step.evicted:
            typer.echo(f"  would unload {', '.join(step.evicted)}")
        if step.fit is None:
            _wrapped(f"does not fit: {step.refusal}")
            return
        if step.was_loaded:
            typer.echo("  is loaded already")
            return
        for reason in step.fit.reasons or (f"n_ctx={step.fit.run.n_ctx}",):
            _wrapped(reason)
        estimated, measured = self._planner.sides(step.spec, step.fit, self._gpus)
        typer.echo(f"  {'':<6} {'layers':>6}" + "".join(f" {title:>9}" for title in _TITLES))
        layers = self._layers(step, step.fit)
        for device, use in estimated.items():
            cells = [*_parts(use), _text(measured.get(device) if measured is not None else None)]
            typer.echo(f"  {device:<6} {layers.get(device, 0):>6}" + "".join(f" {cell:>9}" for cell in cells))

    def plain(self, found: Forecast) -> dict[str, Any]:
        """For JSON."""
        return {
            "rooms": _plain_rooms(self._rooms),
            "models": [self._plain_step(step) for step in found.steps],
            "loaded": list(found.loaded),
            "left": _plain_rooms(found.rooms),
        }

    def _plain_step(self, step: Step) -> dict[str, Any]:
        import msgspec

        record = step.spec.stored.record
        plain = {
            "model": step.spec.key,
            "quantization": record.quantization,
            "evicted": list(step.evicted),
            "was_loaded": step.was_loaded,
        }
        if step.fit is None:
            return {**plain, "fits": False, "error": step.refusal}
        estimated, measured = self._planner.sides(step.spec, step.fit, self._gpus)
        layers = self._layers(step, step.fit)
        return {
            **plain,
            "fits": True,
            "run": msgspec.to_builtins(step.fit.run),
            "reasons": list(step.fit.reasons),
            "devices": [
                {
                    "device": device,
                    "layers": layers.get(device, 0),
                    "estimated": _plain_use(use),
                    "measured": _plain_use(measured[device]) if measured and device in measured else None,
                }
                for device, use in estimated.items()
            ],
        }

    def _layers(self, step: Step, fit: Fit) -> dict[str, int]:
        """How many layers each device has, the output head counted."""
        from appliance.hardware.estimate import placement
        from appliance.hardware.memory_use import RAM

        places = placement(len(step.spec.stored.record.shape.layers), fit.run, len(self._gpus))
        return {RAM: places.count(None)} | {gpu: places.count(number) for number, gpu in enumerate(self._gpus)}

    @property
    def _gpus(self) -> tuple[str, ...]:
        return tuple(room.device for room in self._rooms[1:])


def _parts(use: DeviceMemory) -> list[str]:
    from appliance.hardware.memory_use import format_bytes

    return [*(format_bytes(getattr(use, f"{part}_bytes")) for part in _PARTS), _text(use)]


def _text(use: DeviceMemory | None) -> str:
    from appliance.hardware.memory_use import format_bytes

    return "-" if use is None else format_bytes(use.total_bytes)


def _listed(rooms: Sequence[Room]) -> str:
    from appliance.hardware.memory_use import RAM, format_bytes

    texts = [
        f"{format_bytes(max(0, room.free_bytes))} {'of RAM' if room.device == RAM else f'on {room.device}'}"
        for room in rooms
    ]
    return ", ".join(texts) + (", no GPU" if len(rooms) == 1 else "")


def _wrapped(text: str) -> None:
    import textwrap

    typer.echo(textwrap.fill(text, 78, initial_indent="  ", subsequent_indent="    "))


def _plain_use(use: DeviceMemory) -> dict[str, int]:
    import msgspec

    return {**msgspec.to_builtins(use), "total_bytes": use.total_bytes}


def _plain_rooms(rooms: Sequence[Room]) -> list[dict[str, Any]]:
    return [{"device": room.device, "free_bytes": max(0, room.free_bytes)} for room in rooms]
