"""``appliance kv-disk``: what a running server keeps on disk of computed prompts."""

from __future__ import annotations

import typer

from appliance.cli.options import Json, Url

app = typer.Typer(help="What a running server keeps on disk of computed prompts.", no_args_is_help=True)


@app.command("stats")
def stats(url: Url = None, json: Json = False) -> None:
    """Show how much there is, and what it saved since the engines were loaded."""
    from appliance.cli.client import Client
    from appliance.cli.models.room import count, print_json
    from appliance.hardware.memory_use import format_bytes

    with Client(url) as client:
        found = client.get_json("/admin/kv-disk")
    if json:
        print_json(found)
        return
    limit = format_bytes(found["limit_bytes"]) if found["limit_bytes"] else "nothing: it is off"
    typer.echo(f"folder     {found['folder']}")
    typer.echo(f"used       {format_bytes(found['used_bytes'])} of {limit}, in {count(found['files'], 'file')}")
    typer.echo(f"saved      {_prefixes(found['saved'])}; {found['unsaved']} could not be written")
    typer.echo(f"used again {_prefixes(found['restored'])}, {found['restored_tokens']} tokens")
    rejected = ", ".join(f"{number} {reason}" for reason, number in sorted(found["rejected"].items()))
    typer.echo(f"rejected   {rejected or 'none'}")


@app.command("purge")
def purge(url: Url = None, json: Json = False) -> None:
    """Remove the files of all models. What engines have in memory stays there."""
    from appliance.cli.client import Client
    from appliance.cli.models.room import count, print_result
    from appliance.hardware.memory_use import format_bytes

    with Client(url) as client:
        found = client.post_json("/admin/kv-disk/purge")
    print_result(found, f"removed {count(found['files'], 'file')}, {format_bytes(found['used_bytes'])}", json=json)


def _prefixes(number: int) -> str:
    return "1 prefix" if number == 1 else f"{number} prefixes"
