"""The ``appliance`` command: one file for each group of commands.

A command imports what it works with when it runs: ``serve`` has its engine process loading before it imports a web
framework, and ``chat`` never imports one.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import appliance
from appliance.cli import (
    cache,
    chat,
    doctor,
    hardware,
    health,
    kv_disk,
    models,
    plan,
    requests,
    serve,
    status,
    tui,
    watch,
)
from appliance.errors import ApplianceError

app = typer.Typer(
    name="appliance",
    help="A company's own LLM server: an OpenAI-compatible endpoint over llama.cpp, with no network at all.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("serve")(serve.serve)
app.command("chat")(chat.chat)
app.command("tui")(tui.tui)
app.command("health")(health.health)
app.command("status")(status.status)
app.command("logs")(watch.logs)
app.command("events")(watch.events)
app.command("history")(watch.history)
app.command("hardware")(hardware.hardware)
app.command("plan")(plan.plan)
app.command("doctor")(doctor.doctor)
app.add_typer(requests.app, name="requests")
app.add_typer(models.app, name="models")
app.add_typer(cache.app, name="cache")
app.add_typer(kv_disk.app, name="kv-disk")


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"appliance {appliance.__version__}")
        raise typer.Exit


# Without a command, the version still has to be printed.
app.info.invoke_without_command = True


def main() -> None:
    try:
        app()
    except ApplianceError as error:
        sys.stderr.write(f"error: {error.message}\n")
        sys.exit(1)
