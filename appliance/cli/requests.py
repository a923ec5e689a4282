"""``appliance requests``: what waits and runs on a server."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="The requests that wait and run on a server.", no_args_is_help=True)

Url = Annotated[str | None, typer.Option(help="Address of the server. [default: from the settings]")]


@app.command("list")
def list_requests(url: Url = None) -> None:
    """List the requests that wait and run, oldest first."""
    from appliance.cli.client import Client

    with Client(url) as client:
        found = client.get_json("/admin/requests")["requests"]
    if not found:
        typer.echo("no request waits or runs")
    for entry in found:
        done, prompt = entry["prompt_tokens_computed"], entry["prompt_tokens"]
        typer.echo(
            f"{entry['id']}  {entry['state']:8} key {entry['key']}  prompt {done}/{prompt}  "
            f"answer {entry['completion_pieces']} pieces  {entry['age_s']:.1f} s"
        )


@app.command("cancel")
def cancel(
    request_id: Annotated[str, typer.Argument(help="Id of the completion, or the X-Request-ID of the request.")],
    url: Url = None,
) -> None:
    """End a request; its client gets an error."""
    from urllib.parse import quote

    from appliance.cli.client import Client

    with Client(url) as client:
        client.delete_json(f"/admin/requests/{quote(request_id, safe='')}")
    typer.echo(f"cancelled {request_id}")
