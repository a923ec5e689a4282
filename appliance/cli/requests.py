"""``appliance requests``: what waits and runs on a server, and what has ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from appliance.cli.options import Json, Url

app = typer.Typer(help="The requests that wait and run on a server, and those that ended lately.", no_args_is_help=True)


@app.command("list")
def list_requests(url: Url = None, json: Json = False) -> None:
    """List the requests that wait and run, oldest first."""
    _list("requests", _line, "no request waits or runs", url, json=json)


@app.command("recent")
def recent(url: Url = None, json: Json = False) -> None:
    """List the latest 100 requests that have ended, newest first: how they ended, and how long they took."""
    _list("recent", _ended_line, "no request has ended yet", url, json=json)


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


def _list(which: str, line: Callable[[dict[str, Any]], str], empty: str, url: str | None, *, json: bool) -> None:
    from appliance.cli.client import Client
    from appliance.cli.models.room import print_rows

    with Client(url) as client:
        print_rows(client.get_json("/admin/requests")[which], line, empty=empty, json=json)


def _line(entry: dict[str, Any]) -> str:
    place, speed = entry["queue_place"], entry["tokens_per_s"]
    words = [
        entry["id"],
        f"{entry['state']:8}" + (f" as number {place}" if place is not None else ""),
        f"{entry['model']}  key {entry['key']}",
        f"prompt {entry['prompt_tokens_computed']}/{entry['prompt_tokens']}",
        f"answer {entry['completion_pieces']} pieces" + (f", {speed:.1f} a second" if speed is not None else ""),
        f"{entry['age_s']:.1f} s",
    ]
    return "  ".join(words)


def _ended_line(entry: dict[str, Any]) -> str:
    words = [
        time.strftime("%H:%M:%S", time.localtime(entry["ended_s"])),
        entry["id"],
        f"{entry['outcome']:8} {entry['cache'] or '-':6}",
        f"{entry['model']}  key {entry['key']}",
        f"prompt {entry['prompt_tokens']} ({entry['cached_tokens']} cached)  answer {entry['completion_tokens']}",
        "  ".join(f"{name} {_seconds(entry[field])}" for name, field in _TIMES),
    ]
    return "  ".join(words)


_TIMES = (("queue", "queue_s"), ("TTFT", "ttft_s"), ("all", "e2e_s"))


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
