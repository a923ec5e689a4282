"""The commands that look on: the log, what happens to models, and the last ten minutes."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from appliance.cli.options import Json, Url


def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with those that come.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the latest to begin with.")] = 100,
    url: Url = None,
) -> None:
    """Print the latest lines of a running server's log, its engines' among them."""
    from appliance.cli.client import Client

    with Client(url) as client:
        if follow:
            found = client.follow(f"/admin/logs?follow=true&limit={lines}")
        else:
            found = client.get_json(f"/admin/logs?limit={lines}")["lines"]
        for entry in found:
            typer.echo(entry["line"])


def events(url: Url = None, json: Json = False) -> None:
    """Print what happens to the models of a running server, as it happens: loads, unloads, failures."""
    import orjson

    from appliance.cli.client import Client

    with Client(url) as client:
        for event in client.follow("/admin/events"):
            if json:
                typer.echo(orjson.dumps(event).decode())
                continue
            at = time.strftime("%H:%M:%S", time.localtime(event.pop("time_s")))
            kind, model, version = event.pop("event"), event.pop("model"), event.pop("version", "")
            fields = "  ".join(f"{name}={_value(value)}" for name, value in event.items())
            typer.echo(f"{at}  {kind:9}  {model}@{version}  {fields}".rstrip())


def history(
    url: Url = None,
    json: Json = False,
    since_s: Annotated[float, typer.Option(help="Only what came after this time, in seconds since 1970.")] = 0.0,
) -> None:
    """Show the last ten minutes of a running server: requests, tokens a second, processor, memory and network."""
    from appliance.cli.client import Client
    from appliance.cli.models.room import print_json
    from appliance.hardware.memory_use import format_bytes

    with Client(url) as client:
        found = client.get_json(f"/admin/history?since_s={since_s}")
    if json:
        return print_json(found)
    typer.echo(
        f"{'time':8}  {'run':>3} {'wait':>4}  {'prompt/s':>8} {'answer/s':>8}  {'KV':>4}  {'CPU':>4}  {'RAM':>9}  "
        f"{'kB/s out':>8} {'kB/s in':>8}"
    )
    if len(found["snapshots"]) < 2:
        typer.echo(f"nothing yet: the server takes a snapshot every {found['interval_s']:g} s")
    before = None
    for now in found["snapshots"]:
        if before is not None:
            seconds = max(now["time_s"] - before["time_s"], 1e-3)
            prompt, answer = ((now[name] - before[name]) / seconds for name in ("prompt_tokens", "completion_tokens"))
            kv = now["kv_used_tokens"] / now["kv_total_tokens"] if now["kv_total_tokens"] else 0.0
            at = time.strftime("%H:%M:%S", time.localtime(now["time_s"]))
            typer.echo(
                f"{at}  {now['requests_running']:3} {now['requests_waiting']:4}  {prompt:8.1f} {answer:8.1f}  "
                f"{kv:4.0%}  {now['cpu_ratio']:4.0%}  {format_bytes(now['ram_used_bytes']):>9}  "
                f"{_pace(now, before, 'net_sent_bytes'):>8} {_pace(now, before, 'net_received_bytes'):>8}"
            )
        before = now
    return None


def _pace(now: dict[str, Any], before: dict[str, Any], name: str) -> str:
    """Thousands of bytes a second between two snapshots."""
    if now[name] is None or before[name] is None:
        return "-"
    return f"{(now[name] - before[name]) / max(now['time_s'] - before['time_s'], 1e-3) / 1000:.1f}"


def _value(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
