"""``appliance chat``: talk to a running server."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.options import Url

if TYPE_CHECKING:
    from appliance.cli.client import Client

HELP = "/clear starts anew, /exit or Ctrl-D ends, Ctrl-C stops an answer"


def chat(
    prompt: Annotated[str | None, typer.Argument(help="Ask this and exit. Piped input is added behind it.")] = None,
    url: Url = None,
    model: Annotated[str | None, typer.Option(help="Model to ask. [default: the server's]")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 is the most likely answer. [default: the server's]")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer again.")] = None,
) -> None:
    """Chat with a running server: one question, or a conversation when there is none."""
    from appliance.cli.client import Client

    fields = {"model": model, "temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    options = {name: value for name, value in fields.items() if value is not None}
    messages = [{"role": "system", "content": system}] if system else []
    is_interactive = sys.stdin.isatty()
    with Client(url) as client:
        if prompt is None and is_interactive:
            _converse(client, options, messages)
            return
        if sys.stderr.isatty() and (note := _served(client, options).get("note")):
            typer.echo(note, err=True)
        piped = "" if is_interactive else sys.stdin.buffer.read().decode("utf-8", "replace")
        question = "\n\n".join(text for text in (prompt, piped.strip()) if text)
        if not question:
            raise typer.BadParameter("there is nothing to ask: give a prompt, or pipe one in")
        _ask(client, options, [*messages, {"role": "user", "content": question}])


def _converse(client: Client, options: dict[str, Any], start: list[dict[str, str]]) -> None:
    # Line editing and history for input(), where the platform has it.
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    chosen = _served(client, options)
    typer.echo(f"{chosen['id']} - {HELP}")
    if note := chosen.get("note"):
        typer.echo(note)
    messages = list(start)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            typer.echo()
            return
        except KeyboardInterrupt:
            typer.echo()
            continue
        if line == "/exit":
            return
        if line == "/clear":
            messages = list(start)
        elif line.startswith("/"):
            typer.echo(HELP)
        elif line:
            _turn(client, options, messages, line)


def _served(client: Client, options: dict[str, Any]) -> dict[str, Any]:
    """What the server says of the model that will answer."""
    served: list[dict[str, Any]] = client.get_json("/v1/models")["data"]
    return next((entry for entry in served if entry["id"] == options.get("model")), served[0])


def _turn(client: Client, options: dict[str, Any], messages: list[dict[str, str]], line: str) -> None:
    """One question and its answer; what went wrong is said, and the conversation goes on."""
    from appliance.cli.client import ServerError

    question = {"role": "user", "content": line}
    try:
        answer = _ask(client, options, [*messages, question])
    except ServerError as error:
        typer.echo(f"error: {error.message}", err=True)
        return
    messages += [question, {"role": "assistant", "content": answer}]


def _ask(client: Client, options: dict[str, Any], messages: list[dict[str, str]]) -> str:
    """Prints the answer as it comes and returns it; Ctrl-C ends it early."""
    answer = []
    body = {**options, "messages": messages, "stream": True}
    progress = _Progress()
    try:
        with contextlib.closing(client.stream("/v1/chat/completions", body, progress.show)) as events:
            for event in events:
                for choice in event["choices"]:
                    text = choice["delta"].get("content") or ""
                    if text:
                        progress.clear()
                    answer.append(text)
                    sys.stdout.write(text)
                    sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stdout.write(" [stopped]")
        if not sys.stdin.isatty():
            raise
    finally:
        progress.clear()
        sys.stdout.write("\n")
    return "".join(answer)


class _Progress:
    """How far the prompt is computed, on a line that the answer takes over; on a terminal only."""

    def __init__(self) -> None:
        self._n_chars = 0

    def show(self, comment: str) -> None:
        if comment.startswith("prefill") and sys.stdout.isatty():
            self.clear()
            text = f"reading the prompt: {comment.removeprefix('prefill').strip()} tokens"
            sys.stdout.write(text)
            sys.stdout.flush()
            self._n_chars = len(text)

    def clear(self) -> None:
        if self._n_chars:
            sys.stdout.write("\r" + " " * self._n_chars + "\r")
            self._n_chars = 0
