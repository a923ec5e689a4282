"""``appliance doctor``: is all well with this machine and what is installed on it?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from appliance.schemas.doctor import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}
_NAME_WIDTH = 13
_INDENT = 8 + 1 + _NAME_WIDTH + 1


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print all findings as JSON.")] = False,
    no_speed: Annotated[bool, typer.Option("--no-speed", help="Don't load the default model to measure it.")] = False,
    set_floor: Annotated[
        bool, typer.Option("--set-floor", help="Store the measured speed as the one that later runs are compared with.")
    ] = False,
) -> None:
    """Check processor, GPUs, memory, models, disks and port, and measure how fast the default model is.

    Needs no running server. Each line is ok, warning or failed, with what to do below it. The exit status is 1 if
    anything has failed, else 0, also with warnings. The first measured speed is stored in the state folder; below half
    of it is a warning, below a fifth a failure.
    """
    from appliance import logs, settings
    from appliance.errors import ConfigError
    from appliance.schemas.doctor import diagnosis
    from appliance.service.doctor.examine import examine_each

    if no_speed and set_floor:
        raise ConfigError("--no-speed --set-floor: want one of them; a floor is measured")
    config = settings.load()
    logs.configure("error", config.log_format)
    found = []
    for finding in examine_each(config, serving=False, speed=not no_speed, set_floor=set_floor):
        found.append(finding)
        if not as_json:
            _show(finding)
    result = diagnosis(found)
    if as_json:
        typer.echo(result.model_dump_json(indent=1))
    raise typer.Exit(1 if result.status == "failed" else 0)


def _show(finding: Finding) -> None:
    import shutil
    import textwrap

    width = max(60, shutil.get_terminal_size().columns)
    word = typer.style(f"{finding.status:8}", fg=_COLOURS[finding.status], bold=finding.status != "ok")
    lines = textwrap.wrap(finding.message, width - _INDENT, break_long_words=False, break_on_hyphens=False)
    typer.echo(f"{word} {finding.name:{_NAME_WIDTH}} {lines[0]}")
    for line in lines[1:]:
        typer.echo(" " * _INDENT + line)
    if finding.remedy is not None:
        remedy = textwrap.wrap(
            f"-> {finding.remedy}", width - _INDENT - 2, break_long_words=False, break_on_hyphens=False
        )
        for line in remedy:
            typer.echo(" " * (_INDENT + 2) + line)
