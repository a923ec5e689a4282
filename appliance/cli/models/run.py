"""The commands that load and unload models in a running server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.options import Json, Url

if TYPE_CHECKING:
    from appliance.cli.client import Client

Model = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="A model, by its name or an alias.")]


def ps(url: Url = None, json: Json = False) -> None:
    """List the models that a running server has loaded, or was asked for, and the memory that they take."""
    from appliance.cli.client import Client
    from appliance.cli.models.room import print_rows

    with Client(url) as client:
        print_rows(client.get_json("/admin/status")["models"], _line, empty="no model was asked for yet", json=json)


def plan(model: Model, url: Url = None, json: Json = False) -> None:
    """Show what loading a model would do in a running server now: where it would lie, and what would be unloaded.

    Nothing is loaded. The exit status is 1 if it doesn't fit.
    """
    from appliance.cli.client import Client
    from appliance.cli.models.room import print_json
    from appliance.cli.plan_view import rooms_now, rooms_then, show_plan
    from appliance.schemas.admin import ModelPlan

    with Client(url) as client:
        plain = client.get_json(_path(model, "plan"))
    found = ModelPlan.model_validate(plain)
    if json:
        print_json(plain)
    else:
        typer.echo(f"with {rooms_now(found)}, beside what is loaded:")
        show_plan(found)
        typer.echo(f"\nthen free    {rooms_then(found)}")
    raise typer.Exit(0 if found.fits else 1)


def load(model: Model, url: Url = None, json: Json = False) -> None:
    """Load a model in a running server now. Others that are not pinned make way if there is no room."""
    from appliance.cli.client import Client

    with Client(url) as client, _progress(client, model):
        status = client.post_json(_path(model, "load"))
    _say(status, json=json)


def unload(model: Model, url: Url = None, json: Json = False) -> None:
    """End a model's engine in a running server, once its requests have ended. The next request loads it again."""
    _post(model, "unload", url, json=json)


def pin(model: Model, url: Url = None, json: Json = False) -> None:
    """Keep a model from making way for others."""
    _post(model, "pin", url, json=json)


def unpin(model: Model, url: Url = None, json: Json = False) -> None:
    """Let a model make way for others again."""
    _post(model, "unpin", url, json=json)


def default(model: Model, url: Url = None, json: Json = False) -> None:
    """Choose the model for requests that name none. It holds also after a restart."""
    _post(model, "default", url, json=json)


def _post(model: str, action: str, url: str | None, *, json: bool) -> None:
    from appliance.cli.client import Client

    with Client(url) as client:
        status = client.post_json(_path(model, action))
    _say(status, json=json)


def _path(model: str, action: str) -> str:
    from urllib.parse import quote

    from appliance.errors import ModelNotFound

    if not model.strip("./"):  # a path would change its meaning
        raise ModelNotFound(f"'{model}' is no model's name; `appliance models ls` lists them")
    return f"/admin/models/{quote(model, safe='')}/{action}"


def _say(status: dict[str, Any], *, json: bool) -> None:
    from appliance.cli.models.room import print_json

    if json:
        return print_json(status)
    typer.echo(_line(status))
    return None


def _line(model: dict[str, Any]) -> str:
    """A model's state in a line, and a second one for why its engine is as it is."""
    from appliance.hardware.memory_use import format_bytes

    words = [f"{model['name']}@{model['version']}", model["state"]]
    words += [word for word, key in (("default", "is_default"), ("pinned", "is_pinned")) if model[key]]
    engine = model["engine"]
    if engine is not None:
        words.append(f"n_ctx {engine['n_ctx']}")
        words.append(f"{engine['n_gpu_layers']} layers on GPU" if engine["n_gpu_layers"] else "on CPU")
        for device, memory in engine["memory"].items():
            words.append(f"{device} {format_bytes(sum(memory.values()))}")
    if model["load_ratio"] is not None:
        words.append(f"{model['load_ratio']:.0%} loaded")
    if model["requests"] or model["requests_waiting"]:
        words.append(f"{model['requests']} requests, {model['requests_waiting']} wait")
    if model["idle_s"] is not None:
        words.append(f"idle for {model['idle_s']:.0f} s")
    if model["retry_in_s"] is not None:
        is_over = model["retry_in_s"] == 0
        words.append("the next request tries again" if is_over else f"not tried again for {model['retry_in_s']:.0f} s")
    lines = ["  ".join(words)]
    if model["error"]:
        lines.append(f"  error: {model['error']}")
    lines += [f"  {reason}" for reason in (engine["reasons"] if engine is not None else ())]
    return "\n".join(lines)


@contextmanager
def _progress(client: Client, model: str) -> Iterator[None]:
    """Shows how far loading is while the block lasts."""
    import threading

    from appliance.cli.progress import report
    from appliance.errors import ApplianceError

    done = threading.Event()

    def follow() -> None:
        percent = 0
        with report().stage(f"loading {model}", 100) as advance:
            while not done.wait(0.2):
                try:
                    models = client.get_json("/admin/status")["models"]
                except ApplianceError:
                    continue
                ratios = [m["load_ratio"] for m in models if m["name"] == model.partition("@")[0] and m["load_ratio"]]
                now = int(100 * max(ratios, default=0.0))
                if now > percent:
                    advance(now - percent)
                    percent = now
            advance(100 - percent)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
