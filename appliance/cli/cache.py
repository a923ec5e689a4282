"""``appliance cache``: the response cache of a running server."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any

import typer

from appliance.cli import warm
from appliance.cli.options import Json, Url
from appliance.errors import ConfigError

app = typer.Typer(help="The response cache of a running server.", no_args_is_help=True)


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TIME = re.compile(r"([0-9]+|[0-9]*\.[0-9]+)([smhd]?)")


@app.command("stats")
def stats(url: Url = None, json: Json = False) -> None:
    """Show how full it is, what it did since the server's start, and its answers by model and API key."""
    from appliance.cli.client import Client
    from appliance.cli.models.room import count, print_json
    from appliance.hardware.memory_use import format_bytes

    with Client(url) as client:
        found = client.get_json("/admin/cache")
    if json:
        print_json(found)
        return
    status = found["status"]
    typer.echo(f"file       {status['path']}")
    typer.echo(f"used       {format_bytes(status['used_bytes'])} of {format_bytes(status['limit_bytes'])}")
    if status["ttl_s"] is not None:
        typer.echo(f"kept for   {_age(status['ttl_s'])}")
    if status["problem"]:
        typer.echo(f"problem    no answer can be kept: {status['problem']}")
    asked = status["hits"] + status["joins"] + status["misses"]
    share = f" ({(status['hits'] + status['joins']) / asked:.0%} not computed)" if asked else ""
    typer.echo(f"prompts    {status['hits']} hits, {status['joins']} joined, {status['misses']} misses{share}")
    passed = ", ".join(f"{number} {reason}" for reason, number in sorted(status["bypasses"].items()))
    typer.echo(f"passed by  {passed or 'none'}")
    typer.echo(f"saved      {status['saved_tokens']} tokens, {status['saved_s']:.1f} s of computing")
    typer.echo(
        f"evicted    {count(status['evictions'], 'answer')}; {status['unkept']} could not be kept; "
        f"{count(status['unread'], 'read')} failed"
    )
    if not found["contents"]:
        typer.echo("no answer is stored")
    for group in found["contents"]:
        age = _age(time.time() - group["oldest_s"])
        typer.echo(
            f"  {group['model']}@{group['version']}  key {group['key']}  {count(group['answers'], 'answer')}, "
            f"{group['tokens']} tokens, the oldest {age} old"
        )


@app.command("purge")
def purge(
    model: Annotated[
        str | None, typer.Option(help="Only answers of this model: a name, an alias or NAME@VERSION.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Only answers that were computed for the API key of this name.")
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(help="Only answers older than this, such as 30m, 12h or 7d.")
    ] = None,
    all_of_them: Annotated[bool, typer.Option("--all", help="All answers.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Remove answers: those that meet all that is given."""
    from appliance.cli.client import Client
    from appliance.cli.models.room import count, print_result
    from appliance.cli.progress import report

    wanted: dict[str, Any] = {"model": model, "key": key, "all": all_of_them}
    if older_than is not None:
        wanted["older_than_s"] = _seconds(older_than)
    is_chosen = any(value is not None for value in (model, key, older_than))
    if is_chosen == all_of_them:
        raise ConfigError("say either which answers, by --model, --key or --older-than, or --all")
    with Client(url) as client, report().stage("removing answers", 0):
        found = client.post_json("/admin/cache/purge", wanted)
    if found["purged"]:
        words = f"removed {count(found['purged'], 'answer')}; `appliance cache vacuum` gives the room back to the disk"
    else:
        words = "there is no such answer; `appliance cache stats` lists those that there are"
    print_result(found, words, json=json)


@app.command("vacuum")
def vacuum(url: Url = None, json: Json = False) -> None:
    """Write the file anew without the room that is free in it. Answers are given meanwhile."""
    from appliance.cli.client import Client
    from appliance.cli.models.room import print_result
    from appliance.cli.progress import report
    from appliance.hardware.memory_use import format_bytes

    with Client(url) as client, report().stage("writing the response cache anew", 0):
        found = client.post_json("/admin/cache/vacuum")
    words = f"{format_bytes(found['before_bytes'])} before, {format_bytes(found['after_bytes'])} now"
    print_result(found, words, json=json)


app.command("warm")(warm.warm)


def _seconds(text: str) -> float:
    """Raises ConfigError."""
    found = _TIME.fullmatch(text)
    seconds = float(found[1]) * _UNITS[found[2] or "s"] if found is not None else float("inf")
    if seconds == float("inf"):
        raise ConfigError(f"--older-than {text!r}: want a time such as 30m, 12h or 7d")
    return seconds


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
