"""``appliance status``: what a running server does."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def status(
    url: Annotated[str | None, typer.Option(help="Address of the server. [default: from the settings]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole snapshot as JSON.")] = False,
) -> None:
    """Show a running server's model, engine, KV cache, queue and latencies."""
    from appliance.cli.client import Client

    with Client(url) as client:
        found = client.get_json("/admin/status")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    model, engine = found["model"], found["engine"]
    typer.echo(f"model     {model['name']} {model['quantization']} sha256 {model['gguf_sha256'][:12]}")
    typer.echo(f"engine    {engine['state']}, pid {engine['pid']}, on {engine['device'] or '-'}")
    if engine["error"]:
        typer.echo(f"error     {engine['error']}")
    typer.echo(f"requests  {found['requests_open']} open; sequences: {engine['running']} run, {engine['waiting']} wait")
    if cache := engine["kv_cache"]:
        used, total, kept = cache["used_tokens"], cache["total_tokens"], cache["retained"]
        typer.echo(f"KV cache  {used} of {total} tokens; {kept} ended sequences kept")
    if (work := engine["work"]) and work["steps"]:
        n_tokens = work["prompt_tokens_computed"] + work["tokens_sampled"]
        typer.echo(
            f"steps     {work['steps']}, {n_tokens / work['steps']:.1f} tokens each; "
            f"{work['prompt_tokens_reused']} prompt tokens reused; "
            f"{work['preemptions']} preemptions, {work['evictions']} evictions"
        )
    latencies = found["latencies"]
    typer.echo(f"latencies of the last {latencies['n_requests']} requests, in seconds: p50, p90, p99")
    for name, text in (("queue_s", "queue"), ("ttft_s", "TTFT"), ("tpot_s", "TPOT"), ("e2e_s", "end to end")):
        typer.echo(f"  {text:11}{_percentiles(latencies[name])}")


def _percentiles(values: dict[str, Any] | None) -> str:
    return "-" if values is None else "  ".join(f"{values[name]:9.4f}" for name in ("p50", "p90", "p99"))
