"""``appliance cache``: the response cache of a running server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.errors import ConfigError

app = typer.Typer(help="The response cache of a running server.", no_args_is_help=True)

Url = Annotated[str | None, typer.Option(help="Address of the server. [default: from the settings]")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# Requests in one call: between two calls there is progress to show.
_WARM_AT_ONCE = 16
_SHOWN = 20


@app.command("stats")
def stats(url: Url = None, json: Json = False) -> None:
    """Show how full it is, what it did since the server's start, and its answers by model and API key."""
    from appliance.cli.client import Client
    from appliance.cli.models.room import print_json
    from appliance.hardware.memory_use import format_bytes

    with Client(url) as client:
        found = client.get_json("/admin/cache")
    if json:
        print_json(found)
        return
    status = found["status"]
    typer.echo(f"file       {status['path']}")
    typer.echo(f"used       {format_bytes(status['used_bytes'])} of {format_bytes(status['limit_bytes'])}")
    if status["problem"]:
        typer.echo(f"problem    no answer can be kept: {status['problem']}")
    asked = status["hits"] + status["joins"] + status["misses"]
    share = f" ({(status['hits'] + status['joins']) / asked:.0%} not computed)" if asked else ""
    typer.echo(f"prompts    {status['hits']} hits, {status['joins']} joined, {status['misses']} misses{share}")
    passed = ", ".join(f"{number} {reason}" for reason, number in sorted(status["bypasses"].items()))
    typer.echo(f"passed by  {passed or 'none'}")
    typer.echo(f"saved      {status['saved_tokens']} tokens, {status['saved_s']:.1f} s of computing")
    typer.echo(f"evicted    {status['evictions']}; not kept {status['unkept']}; not read {status['unread']}")
    if not found["contents"]:
        typer.echo("no answer is stored")
    for group in found["contents"]:
        age = _age(time.time() - group["oldest_s"])
        typer.echo(
            f"  {group['model']}@{group['version']}  key {group['key']}  {group['answers']} answers, "
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

    wanted: dict[str, Any] = {"model": model, "key": key, "all": all_of_them}
    if older_than is not None:
        wanted["older_than_s"] = _seconds(older_than)
    if not all_of_them and not any((model, key, older_than)):
        raise ConfigError("say which answers, by --model, --key or --older-than; or say --all")
    with Client(url) as client:
        found = client.post_json("/admin/cache/purge", wanted)
    words = f"removed {count(found['purged'], 'answer')}; `appliance cache vacuum` gives their room back to the disk"
    print_result(found, words, json=json)


@app.command("vacuum")
def vacuum(url: Url = None, json: Json = False) -> None:
    """Write the file anew without the room that is free in it. Answers are given meanwhile."""
    from appliance.cli.client import Client
    from appliance.cli.models.room import print_result
    from appliance.cli.progress import report
    from appliance.hardware.memory_use import format_bytes

    with Client(url) as client, report().stage("writing the response cache anew", 1):
        found = client.post_json("/admin/cache/vacuum")
    words = f"{format_bytes(found['before_bytes'])} before, {format_bytes(found['after_bytes'])} now"
    print_result(found, words, json=json)


@app.command("warm")
def warm(
    file: Annotated[Path, typer.Argument(help="JSON lines: bodies of requests, or lines of OpenAI's batch files.")],
    key: Annotated[str | None, typer.Option(help="Name of the API key whose apps will ask.")] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Run requests through at batch priority, so that their answers are there when apps ask."""
    from appliance.cli.client import Client
    from appliance.cli.models.room import print_json
    from appliance.cli.progress import report

    requests = _requests(file)
    results: list[dict[str, Any]] = []
    with Client(url) as client, report().stage("warming", len(requests)) as advance:
        for begin in range(0, len(requests), _WARM_AT_ONCE):
            part = [body for _, body in requests[begin : begin + _WARM_AT_ONCE]]
            results += client.post_json("/admin/cache/warm", {"requests": part, "key": key})["results"]
            advance(len(part))
    lines = [number for number, _ in requests]
    if json:
        print_json([{"line": line, **result} for line, result in zip(lines, results, strict=True)])
    else:
        _show_warmed(lines, results)
    if any(result["state"] == "error" for result in results):
        raise typer.Exit(1)


def _show_warmed(lines: list[int], results: list[dict[str, Any]]) -> None:
    unkept = [(line, result) for line, result in zip(lines, results, strict=True) if result["reason"]]
    for line, result in unkept[:_SHOWN]:
        typer.echo(f"line {line}: {'error' if result['state'] == 'error' else 'not kept'}: {result['reason']}")
    if len(unkept) > _SHOWN:
        typer.echo(f"... and {len(unkept) - _SHOWN} more; --json shows all")
    states = [result["state"] for result in results]
    computed = states.count("miss") + states.count("joined")
    typer.echo(
        f"{computed} answers computed, {states.count('hit')} were there, "
        f"{states.count('bypass')} can't be kept, {states.count('error')} failed"
    )


def _requests(file: Path) -> list[tuple[int, dict[str, Any]]]:
    """The bodies with their lines' numbers. Raises ConfigError."""
    import orjson

    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"{file} can't be read: {error.strerror}") from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            body = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ConfigError(f"{file} line {number}: no valid JSON: {error}") from None
        if isinstance(body, dict) and isinstance(body.get("body"), dict):  # of a batch file
            body = body["body"]
        if not isinstance(body, dict):
            raise ConfigError(f"{file} line {number}: want a JSON object, the body of a request")
        found.append((number, body))
    if not found:
        raise ConfigError(f"{file} holds no request")
    return found


def _seconds(text: str) -> float:
    """Raises ConfigError."""
    number, unit = (text[:-1], text[-1]) if text and text[-1] in _UNITS else (text, "s")
    try:
        seconds = float(number) * _UNITS[unit]
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ConfigError(f"--older-than {text}: want a time such as 30m, 12h or 7d")
    return seconds


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
