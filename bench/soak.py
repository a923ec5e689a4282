"""Runs this appliance under random load for a while: at the end nothing may have leaked and nothing be unanswered.

Random arrivals, prompts, answers and aborts over HTTP, with two API keys and a context that is too small for all of
them together. Writes bench/results/soak.json; the exit status is 1 if a check fails.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import msgspec
import uvloop

from appliance.hardware.cpu import physical_cores
from bench import machine
from bench.client import Endpoint, fetch_json
from bench.errors import BenchError
from bench.ggufs import find_gguf
from bench.load import complete
from bench.peers.appliance import Appliance
from bench.peers.base import RunningPeer, Setup
from bench.progress import Progress
from bench.prompts import words
from bench.results import FOLDER
from bench.soak_load import Load

N_CTX = 4096
N_SLOTS = 16
KEYS = ("bench-first-key-0000", "bench-other-key-0000")
WATCH_EVERY_S = 2.0
SAY_EVERY_S = 20.0
# Between the last two fifths of the time; an allocator's own book-keeping stays below it.
MAX_GROWTH_RATIO = 1.005
MAX_GROWTH_BYTES = 2 << 20
# A prompt that leaves so little of the context makes the engine drop all that it retains.
FLUSH_RATIO = 0.97


class Watched(msgspec.Struct, frozen=True):
    """``at_s`` since the start; memory in bytes; the rest as ``GET /admin/status`` tells it."""

    at_s: float
    gateway_rss_bytes: int
    engine_rss_bytes: int
    kv_used_tokens: int
    kv_total_tokens: int
    running: int
    waiting: int
    requests_open: int


class Check(msgspec.Struct, frozen=True):
    wanted: str
    found: str
    is_good: bool


class Soak(msgspec.Struct, frozen=True):
    minutes: float
    seed: int
    machine: dict[str, str | int | float]
    gguf_type: str
    settings: dict[str, int]
    outcomes: dict[str, int]
    checks: tuple[Check, ...]
    watched: tuple[Watched, ...]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="how long requests are sent [%(default)g]")
    parser.add_argument("--gguf", default="q4_0", metavar="FILE", help="a path, q4_0 or q4_1 [%(default)s]")
    parser.add_argument("--threads", type=int, default=physical_cores(), help="compute threads [%(default)s]")
    parser.add_argument("--seed", type=int, default=1, help="of everything random in the load [%(default)s]")
    parser.add_argument("--results", type=Path, default=FOLDER, metavar="FOLDER", help="[bench/results]")
    given = parser.parse_args()
    say = Progress()
    try:
        with tempfile.TemporaryDirectory(prefix="appliance-soak-") as scratch:
            soak = uvloop.run(_run(given.minutes, given.gguf, given.threads, given.seed, Path(scratch), say))
    except BenchError as error:
        sys.exit(f"error: {error}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("stopped; the server has ended")
    given.results.mkdir(parents=True, exist_ok=True)
    part = given.results / f"soak.{os.getpid()}.part"
    part.write_bytes(msgspec.json.format(msgspec.json.encode(soak), indent=1) + b"\n")
    os.replace(part, given.results / "soak.json")
    for check in soak.checks:
        sys.stdout.write(f"{'good' if check.is_good else 'BAD '}  {check.wanted}: {check.found}\n")
    sys.exit(0 if all(check.is_good for check in soak.checks) else 1)


async def _run(minutes: float, wanted: str, n_threads: int, seed: int, scratch: Path, say: Progress) -> Soak:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    gguf = await find_gguf(wanted, scratch, say)
    keys, state_dir = scratch / "keys", scratch / "state"
    keys.write_text("\n".join(f"{key} name={name}" for key, name in zip(KEYS, ("first", "other"), strict=True)) + "\n")
    state_dir.mkdir()
    setup = Setup(gguf.path, n_threads, N_CTX, N_SLOTS)
    say(f"soak: {minutes:g} minutes of random load, {N_SLOTS} slots, context {N_CTX}")
    async with Appliance(scratch / "models").serve(
        setup, scratch / "server.log", keys=keys, state_dir=state_dir
    ) as server:
        admin = replace(server.endpoint, key=(state_dir / "admin-token").read_text().strip())
        load = Load(server.endpoint, KEYS, N_CTX, seed)
        watched: list[Watched] = []
        watching = asyncio.create_task(_watch(server, admin, load, watched, say))
        sending = asyncio.create_task(load.run(60 * minutes))
        try:
            await asyncio.wait((sending, watching), return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                raise BenchError(f"the server can't be watched any longer: {watching.exception()!r}")
            await sending
        finally:
            sending.cancel()
            watching.cancel()
        say("all requests have ended; looking at what is left")
        idle = await _look(server, admin, at_s=60 * minutes)
        checks = [_all_answered(load), _memory("gateway", watched), _memory("engine", watched), _is_idle(idle)]
        checks.append(await _nothing_leaked(server, admin))
    return Soak(
        minutes=minutes,
        seed=seed,
        machine=machine.describe(),
        gguf_type=gguf.type,
        settings={"n_threads": n_threads, "n_ctx": N_CTX, "n_slots": N_SLOTS},
        outcomes=dict(load.outcomes),
        checks=tuple(checks),
        watched=tuple(watched),
    )


async def _watch(server: RunningPeer, admin: Endpoint, load: Load, watched: list[Watched], say: Progress) -> None:
    loop = asyncio.get_running_loop()
    started_at = said_at = loop.time()
    while True:
        await asyncio.sleep(WATCH_EVERY_S)
        watched.append(await _look(server, admin, at_s=loop.time() - started_at))
        if loop.time() - said_at > SAY_EVERY_S:
            said_at = loop.time()
            now = watched[-1]
            say(
                f"  {load.n_made} sent, {load.n_open} open; KV {now.kv_used_tokens}/{now.kv_total_tokens}; "
                f"gateway {now.gateway_rss_bytes >> 20} MiB, engine {now.engine_rss_bytes >> 20} MiB"
            )


async def _look(server: RunningPeer, admin: Endpoint, *, at_s: float) -> Watched:
    assert server.process is not None
    status = await fetch_json(admin, "GET", "/admin/status")
    gateway, engine = server.process.processes()
    (model,) = status["models"]
    cells = model["engine"]["kv_cache"]
    return Watched(
        at_s=round(at_s, 1),
        gateway_rss_bytes=gateway.memory_info().rss,
        engine_rss_bytes=engine.memory_info().rss,
        kv_used_tokens=cells["used_tokens"] if cells else 0,
        kv_total_tokens=cells["total_tokens"] if cells else 0,
        running=model["engine"]["running"],
        waiting=model["engine"]["waiting"],
        requests_open=status["requests_open"],
    )


def _all_answered(load: Load) -> Check:
    counts = ", ".join(f"{name} {count}" for name, count in sorted(load.outcomes.items()))
    examples = "; ".join(sorted(set(load.complaints))[:3])
    return Check("no request is unanswered", counts + (f" ({examples})" if examples else ""), not load.complaints)


def _memory(name: str, watched: list[Watched]) -> Check:
    """Compares the medians of the last two fifths of the time."""
    rss = [getattr(seen, f"{name}_rss_bytes") for seen in watched]
    fifth = max(1, len(rss) // 5)
    if len(rss) < 2 * fifth:
        return Check(f"the {name}'s memory has stopped growing", "too short to tell", False)
    before, after = statistics.median(rss[-2 * fifth : -fifth]), statistics.median(rss[-fifth:])
    found = f"{before / 2**20:.1f} MiB, then {after / 2**20:.1f} MiB"
    is_good = after <= max(before * MAX_GROWTH_RATIO, before + MAX_GROWTH_BYTES)
    return Check(f"the {name}'s memory has stopped growing", found, is_good)


def _is_idle(idle: Watched) -> Check:
    found = f"{idle.running} run, {idle.waiting} wait, {idle.requests_open} are open"
    return Check("nothing runs or waits at the end", found, idle.running == idle.waiting == idle.requests_open == 0)


async def _nothing_leaked(server: RunningPeer, admin: Endpoint) -> Check:
    """A prompt that nearly fills the context drives out all that is retained: then only its own cells may be in use."""
    prompt = words(int(FLUSH_RATIO * N_CTX), "flush")
    (answer,) = await complete(replace(server.endpoint, key=KEYS[0]), [prompt], max_tokens=8)
    left = await _look(server, admin, at_s=0)
    own = (answer.n_prompt or 0) + answer.n_tokens
    spare = left.kv_total_tokens - own
    found = f"{left.kv_used_tokens} cells in use after a request of {own} tokens in {left.kv_total_tokens} cells"
    return Check("KV use is back to the retained set", found, left.kv_used_tokens <= own and spare >= 0)


if __name__ == "__main__":
    main()
