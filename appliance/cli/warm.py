"""``appliance cache warm``: requests of a file are run through, so that their answers are stored."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.options import Json, Url

if TYPE_CHECKING:
    from appliance.cli.client import Client
    from appliance.cli.request_lines import Line

# What one call takes: much, because behind its last requests the engine runs dry.
_MAX_LINES = 256
_MAX_BYTES = 1 << 20
_SHOWN = 20

OnResult = Callable[[int, dict[str, Any]], None]


def warm(
    file: Annotated[Path, typer.Argument(help="JSON lines: bodies of requests, or lines of OpenAI's batch files.")],
    key: Annotated[str | None, typer.Option(help="Name of the API key whose apps will ask.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Run requests through at batch priority, so that their answers are there when apps ask."""
    from appliance.cli.client import Client
    from appliance.cli.progress import report
    from appliance.cli.request_lines import parts, read_lines

    lines = read_lines(file)
    results: dict[int, dict[str, Any]] = {}
    with Client(url) as client, _shown(lines, results, as_json=as_json):
        with report().stage("warming", len(lines)) as advance:

            def on_result(number: int, result: dict[str, Any]) -> None:
                results[number] = result
                advance(1)

            for part in parts(lines, max_lines=_MAX_LINES, max_bytes=_MAX_BYTES):
                _run(client, part, key, on_result)
    if any(result["state"] == "error" for result in results.values()):
        raise typer.Exit(1)


def _run(client: Client, part: Sequence[Line], key: str | None, on_result: OnResult) -> None:
    """Tells what became of each line, as it ends. Raises ServerError."""
    from appliance.cli.client import ServerError
    from appliance.errors import BodyTooLarge

    body = b'{"requests":[%b],"key":%b}' % (b",".join(line.text for line in part), json.dumps(key).encode())
    try:
        with contextlib.closing(client.stream("/admin/cache/warm", body)) as events:
            for event in events:
                on_result(part[event["index"]].number, {"state": event["state"], "reason": event["reason"]})
    except ServerError as error:
        if error.status != BodyTooLarge.status:
            raise
        if len(part) == 1:
            on_result(part[0].number, {"state": "error", "reason": error.message})
            return
        _run(client, part[: len(part) // 2], key, on_result)
        _run(client, part[len(part) // 2 :], key, on_result)


@contextlib.contextmanager
def _shown(lines: Sequence[Line], results: dict[int, dict[str, Any]], *, as_json: bool) -> Iterator[None]:
    """Prints what was done in the block, also if it doesn't come to its end."""
    try:
        yield
    except BaseException as error:
        first = next((line.number for line in lines if line.number not in results), None)
        if first is not None and (results or isinstance(error, KeyboardInterrupt)):
            _show(results, as_json=as_json)
            typer.echo(
                f"stopped: line {first} is the first that is not done. The same command goes on from there: "
                "what is stored is not computed again",
                err=True,
            )
        raise
    _show(results, as_json=as_json)


def _show(results: dict[int, dict[str, Any]], *, as_json: bool) -> None:
    from appliance.cli.models.room import count, print_json

    found = sorted(results.items())
    if as_json:
        print_json([{"line": number, **result} for number, result in found])
        return
    unkept = [(number, result) for number, result in found if result["reason"]]
    for number, result in unkept[:_SHOWN]:
        typer.echo(f"line {number}: {'error' if result['state'] == 'error' else 'not kept'}: {result['reason']}")
    if len(unkept) > _SHOWN:
        typer.echo(f"... and {len(unkept) - _SHOWN} more; --json shows all")
    states = [result["state"] for result in results.values()]
    computed = states.count("miss") + states.count("joined")
    typer.echo(
        f"{count(computed, 'answer')} computed, {states.count('hit')} were there, "
        f"{states.count('bypass')} can't be kept, {states.count('error')} failed"
    )
