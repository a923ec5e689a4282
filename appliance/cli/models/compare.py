"""``appliance models compare``: an operator's own questions to two models, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.options import Json
from appliance.errors import ConfigError

if TYPE_CHECKING:
    from appliance.cli.models.room import Room
    from appliance.schemas.chat import ChatRequest
    from appliance.service.catalog import ServedModel
    from appliance.service.compare import Outcome

# For questions that don't say it themselves: the likeliest answer, and not for ever.
DEFAULTS = {"temperature": 0, "max_tokens": 256}
Side = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="A model that is stored.")]


def compare(
    a: Side,
    b: Side,
    prompts: Annotated[
        Path, typer.Argument(metavar="PROMPTS.jsonl", help='A question a line: {"prompt": "..."}, or a chat request.')
    ],
    json: Json = False,
) -> None:
    """Ask two stored models the same questions, side by side.

    It shows answers, times and tokens, of two versions of a model too.

    Questions without a temperature are asked at 0, and answers end after 256 tokens unless max_tokens says otherwise.
    """
    import dataclasses

    from appliance import logs
    from appliance.cli.models.room import Room, print_json
    from appliance.service.catalog import Catalog

    room = Room()
    logs.configure("warning", room.config.log_format)
    requests = _requests(prompts)
    catalog = Catalog(room.config, room.store)
    models = [catalog.resolve(reference) for reference in (a, b)]
    firsts, seconds = (_ask(room, model, requests) for model in models)
    if json:
        rows = zip(requests, firsts, seconds, strict=True)
        return print_json(
            [
                {"messages": [message.model_dump(exclude_unset=True) for message in request.messages]}
                | {"a": dataclasses.asdict(first), "b": dataclasses.asdict(second)}
                for request, first, second in rows
            ]
        )
    _show(requests, [(a, firsts), (b, seconds)])
    return None


def _ask(room: Room, model: ServedModel, requests: list[ChatRequest]) -> list[Outcome]:
    import uvloop

    from appliance.cli.engine import spawner
    from appliance.cli.memory import machine_budget, planner
    from appliance.hardware.gpus import GPUProbe
    from appliance.service.compare import ask_in_turn

    # Both compute all of it.
    spawn = spawner(room.config.model_copy(update={"kv_disk_limit": "0"}), log_level="warning")
    gpus = GPUProbe()
    budget = machine_budget(room.config, gpus)
    title = f"asking {model.spec.key}"
    with room.report.stage(title, len(requests)) as advance:
        return uvloop.run(ask_in_turn(spawn, budget, planner(room.config, gpus), model, requests, advance))


def _requests(path: Path) -> list[ChatRequest]:
    """Raises ConfigError, naming the line."""
    import orjson
    from pydantic import ValidationError

    from appliance.schemas.chat import ChatRequest

    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no text in UTF-8") from None
    requests = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields: dict[str, Any] = orjson.loads(line)
            if not isinstance(fields, dict):
                raise ValueError("want an object")
            if "prompt" in fields:
                fields["messages"] = [{"role": "user", "content": fields.pop("prompt")}]
            requests.append(ChatRequest.model_validate({**DEFAULTS, **fields, "n": 1, "model": None}))
        except ValidationError as error:
            detail = error.errors()[0]
            raise ConfigError(f"{path}:{number}: {'.'.join(map(str, detail['loc']))}: {detail['msg']}") from None
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: {error}") from None
    if not requests:
        raise ConfigError(f"{path} holds no questions")
    return requests


def _show(requests: list[ChatRequest], outcomes: list[tuple[str, list[Outcome]]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_lines=True, expand=True)
    for name in ("question", *(reference for reference, _ in outcomes)):
        table.add_column(Text(name, overflow="fold"), ratio=1)
    for number, request in enumerate(requests):
        answers = [answered[number] for _, answered in outcomes]
        same = len({answer.text for answer in answers}) == 1
        cells = [Text(answer.text.strip() + f"\n[{_figures(answer)}]") for answer in answers]
        question = request.messages[-1].content
        table.add_row(Text(f"{question}" + ("\n(the same answer)" if same else "")), *cells)
    console = Console(highlight=False)
    console.print(table)
    for reference, answered in outcomes:
        n_tokens, seconds = sum(o.n_completion for o in answered), sum(o.seconds for o in answered)
        typer.echo(f"{reference}: {n_tokens} tokens in {seconds:.1f} s, {n_tokens / seconds:.1f} tokens/s")
    firsts, seconds_ = (answered for _, answered in outcomes)
    n_same = sum(first.text == second.text for first, second in zip(firsts, seconds_, strict=True))
    typer.echo(f"{n_same} of {len(requests)} answers are the same")


def _figures(outcome: Outcome) -> str:
    return f"{outcome.n_completion} tokens, {outcome.seconds:.2f} s, {outcome.finish_reason}"
