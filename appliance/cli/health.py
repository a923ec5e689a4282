"""``appliance health``: is the server up, and can it answer?"""

from __future__ import annotations

import typer

from appliance.cli.options import Url


def health(
    url: Url = None,
) -> None:
    """Ask a running server whether it can answer. Exit status 0: ready; 1: not yet, or not at all."""
    from appliance.cli.client import Client

    with Client(url) as client:
        status = client.get_json("/health/ready", accept=(200, 503))
    reason = f": {status['error']}" if "error" in status else ""
    typer.echo(f"{status['status']} {status['model']}{reason}")
    raise typer.Exit(0 if status["status"] == "ready" else 1)
