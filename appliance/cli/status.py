"""``appliance status``: what a running server does."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from appliance.cli.options import Url


def status(
    url: Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole snapshot as JSON.")] = False,
) -> None:
    """Show a running server's models, engines, KV caches, queue and latencies."""
    from appliance.cli.client import Client
    from appliance.hardware.memory_use import format_bytes

    with Client(url) as client:
        found = client.get_json("/admin/status")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(f"default   {found['default'] or '- (it is not in models.lock any more)'}")
    for model in found["models"]:
        _show(model)
    typer.echo(f"requests  {found['requests_open']} open")
    if (cache := found["response_cache"]) is not None:
        typer.echo(
            f"response cache  {cache['hits']} hits, {cache['joins']} joined, {cache['misses']} misses; "
            f"{format_bytes(cache['used_bytes'])} of {format_bytes(cache['limit_bytes'])}"
        )
        if cache["problem"]:
            typer.echo(f"  no answer can be kept: {cache['problem']}")
    latencies = found["latencies"]
    typer.echo(f"latencies of the last {latencies['n_requests']} requests, in seconds: p50, p90, p99")
    for name, text in (("queue_s", "queue"), ("ttft_s", "TTFT"), ("tpot_s", "TPOT"), ("e2e_s", "end to end")):
        typer.echo(f"  {text:11}{_percentiles(latencies[name])}")


def _show(model: dict[str, Any]) -> None:
    from appliance.hardware.memory_use import format_bytes

    typer.echo(f"model     {model['name']} {model['quantization']} sha256 {model['version']}: {model['state']}")
    if model["error"]:
        typer.echo(f"  error     {model['error']}")
    engine = model["engine"]
    if engine is None:
        return
    memory = ", ".join(f"{device} {format_bytes(sum(use.values()))}" for device, use in engine["memory"].items())
    typer.echo(f"  engine    pid {engine['pid']}, on {engine['device'] or '-'}; {memory}")
    typer.echo(
        f"  requests  {model['requests']}, {model['requests_waiting']} wait for the model; "
        f"sequences: {engine['running']} run, {engine['waiting']} wait"
    )
    if cache := engine["kv_cache"]:
        used, total, kept = cache["used_tokens"], cache["total_tokens"], cache["retained"]
        typer.echo(f"  KV cache  {used} of {total} tokens; {kept} ended sequences kept")
    if (work := engine["work"]) and work["steps"]:
        n_tokens = work["prompt_tokens_computed"] + work["tokens_sampled"]
        typer.echo(
            f"  steps     {work['steps']}, {n_tokens / work['steps']:.1f} tokens each; "
            f"{work['prompt_tokens_reused']} prompt tokens reused; "
            f"{work['draft_tokens_accepted']} of {work['draft_tokens']} guessed tokens right; "
            f"{work['preemptions']} preemptions, {work['evictions']} evictions"
        )


def _percentiles(values: dict[str, Any] | None) -> str:
    return "-" if values is None else "  ".join(f"{values[name]:9.4f}" for name in ("p50", "p90", "p99"))
