"""``appliance plan``: what models would take of the memory, without loading any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.options import Json

if TYPE_CHECKING:
    from appliance.hardware.gpus import GPUProbe
    from appliance.schemas.admin import ModelPlan
    from appliance.settings import Settings
    from appliance.supervisor.budget import Budget


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
    as_json: Json = False,
) -> None:
    """Show what models would take of RAM and GPUs, and which would be unloaded for others. Nothing is loaded.

    Needs no server; `appliance models plan` asks one. The exit status is 1 if one doesn't fit.
    """
    import dataclasses

    import msgspec

    from appliance import settings
    from appliance.cli.memory import planner
    from appliance.cli.models.room import print_json
    from appliance.cli.plan_view import rooms_now, rooms_then, show_plan
    from appliance.hardware.gpus import GPUProbe
    from appliance.models.store import ModelStore
    from appliance.service.catalog import Catalog
    from appliance.service.forecast import forecast
    from appliance.service.plan import model_plan

    config = settings.load(n_ctx=n_ctx)
    probe = GPUProbe()
    budget, by_rules = _budget(config, probe, ram, gpu_memory), planner(config, probe)
    catalog = Catalog(config, ModelStore(config.models_dir, config.image_models_dir))
    specs = [catalog.resolve(name).spec for name in models]
    if n_ctx is not None:  # above what is set for a single model, too
        specs = [dataclasses.replace(s, wanted=msgspec.structs.replace(s.wanted, n_ctx=n_ctx)) for s in specs]
    found = forecast(specs, budget, by_rules)
    plans = [model_plan(prospect) for prospect in found.prospects]
    if as_json:
        print_json(_plain(plans, found.loaded))
    else:
        typer.echo(f"with {rooms_now(plans[0])}:")
        for number, each in enumerate(plans, 1):
            show_plan(each, number if len(plans) > 1 else None)
        typer.echo(f"\nthen loaded  {', '.join(found.loaded) or 'nothing'}")
        typer.echo(f"then free    {rooms_then(plans[-1])}")
    raise typer.Exit(0 if all(each.fits for each in plans) else 1)


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


def _plain(plans: list[ModelPlan], loaded: tuple[str, ...]) -> dict[str, Any]:
    """For JSON."""
    return {
        "rooms": [{"device": d.device, "free_bytes": d.free_bytes} for d in plans[0].devices],
        "models": [each.model_dump() for each in plans],
        "loaded": list(loaded),
        "left": [{"device": d.device, "free_bytes": d.free_then_bytes} for d in plans[-1].devices],
    }
