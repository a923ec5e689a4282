"""The response cache in a real gateway whose engine computes nothing: hits, misses, joins, and opening its file."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from bench.bench import Bench
from bench.client import send
from bench.errors import BenchError
from bench.figures import Figure, Target
from bench.kept_alive import Connection, Pool, check, post
from bench.load import TIMEOUT_S, no_collection
from bench.process import ServerProcess, free_port, run_probe, run_server
from bench.rounds import Sample, run_rounds
from bench.stored_answers import N_TOKENS, chat, stored_chat
from bench.summary import percentile
from bench.workloads.base import Measured

GATEWAY = "gateway"
N_ANSWERS = 100_000
N_CONNECTIONS = 16
RATE_PER_S = 200
OPEN_LOOP_S = 10.0
CLOSED_LOOP_S = 5.0
# A token each millisecond, faster than any engine here; what they take is the same with the response cache and without.
MISS_ORDER = "1 0.001"
N_MISSES = 60
# A second for all of it, so that none of them ends before the last has come.
JOIN_ORDER = "1 0.01"
N_IDENTICAL = 100
FILE_BYTES = 1 << 30
_PATH = "/v1/chat/completions"
_GENERATED = re.compile(rb'^appliance_generation_tokens_total\{model_name="fake"\} (\S+)$', re.MULTILINE)
_SETTLE_S = 0.2
# Of the gateway that stores the answers first: half a minute on a quiet machine.
_START_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Servers:
    """``cached`` has a response cache with :data:`N_ANSWERS` in it, ``plain`` none; ``file`` is another one's."""

    cached: ServerProcess
    plain: ServerProcess
    file: Path


class ResponseCache:
    name = "response_cache"
    title = f"response cache with {N_ANSWERS:,} answers, gateway with a fake engine"
    has_model = False
    has_peers = False
    figures = (
        Figure("hit_p50_s", f"a hit at {RATE_PER_S} requests/s, p50", Target("at most", 0.003)),
        Figure("hit_p99_s", f"a hit at {RATE_PER_S} requests/s, p99", Target("at most", 0.015)),
        Figure("hits_per_s", f"hits/s, as fast as {N_CONNECTIONS} connections get them", Target("at least", 800.0)),
        Figure("hit_cpu_us", "processor time of a hit at that speed"),
        Figure("miss_added_s", "what a miss takes longer than without a response cache, p50", Target("at most", 0.001)),
        Figure("n_generations", f"generations for {N_IDENTICAL} identical requests at once", Target("at most", 1.0)),
        Figure("open_s", "opening a file of 1 GiB, to the first answer read", Target("at most", 0.5)),
    )

    async def run(self, bench: Bench) -> Measured:
        await bench.stop_servers()
        async with self._servers(bench) as servers:
            rounds = await run_rounds({GATEWAY: partial(_measure, bench, servers)}, bench.options.rounds, say=bench.say)
        description = (
            f"one process; {N_TOKENS} tokens an answer, {N_CONNECTIONS} connections that stand, chat, not streamed"
        )
        settings = {"n_answers": N_ANSWERS, "n_connections": N_CONNECTIONS, "file_bytes": FILE_BYTES}
        return Measured({GATEWAY: description}, rounds, settings)

    @contextlib.asynccontextmanager
    async def _servers(self, bench: Bench) -> AsyncIterator[Servers]:
        async with contextlib.AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-response-cache-")))
            bench.say("  writing a response cache of 1 GiB")
            file = folder / "large.db"
            await run_probe("bench.probes.response_cache", "make", file, FILE_BYTES, log=bench.scratch / "make.log")
            bench.say(f"  storing {N_ANSWERS:,} answers")
            found = []
            for name, words in (("cached", ["--answers", str(N_ANSWERS)]), ("plain", [])):
                (folder / name).mkdir()
                port = free_port()
                command = [sys.executable, "-m", "bench.probes.gateway", str(port), str(folder / name), *words]
                log = bench.scratch / f"gateway-{name}.log"
                server = run_server(
                    command, port=port, health_path="/health/ready", log=log, start_timeout_s=_START_TIMEOUT_S
                )
                found.append(await stack.enter_async_context(server))
            yield Servers(found[0], found[1], file)


async def _measure(bench: Bench, servers: Servers, round_number: int) -> Sample:
    """One round of everything."""
    draw = random.Random(round_number)
    parts = [
        await _open_loop(servers.cached, draw),
        await _closed_loop(servers.cached, draw),
        await _misses(servers, round_number),
        await _identical(servers.cached, round_number),
    ]
    opened = await run_probe(
        "bench.probes.response_cache", "open", servers.file, FILE_BYTES, log=bench.scratch / "open.log"
    )
    parts.append(Sample({"open_s": opened.pop("open_s")}, {"opened": opened}))
    figures = {name: value for part in parts for name, value in part.figures.items()}
    return Sample(figures, {name: fact for part in parts for name, fact in part.raw.items()})


async def _open_loop(server: ServerProcess, draw: random.Random) -> Sample:
    """Requests come at random times, whether or not earlier ones are answered; waiting for a connection counts."""
    requests = _stored(draw, int(RATE_PER_S * OPEN_LOOP_S))
    late_s: list[float] = []

    async def answered(pool: Pool, request: bytes, due_s: float) -> float:
        # From here, and not from when it was due: a loop's timers are as fine as a millisecond.
        sent_s = time.perf_counter()
        late_s.append(sent_s - due_s)
        check(await pool.ask(request), source=b"hit")
        return time.perf_counter() - sent_s

    await asyncio.sleep(_SETTLE_S)
    with no_collection():
        async with Pool.connect(server.endpoint, N_CONNECTIONS) as pool, asyncio.TaskGroup() as group:
            due_s = time.perf_counter()
            tasks = []
            for request in requests:
                due_s += draw.expovariate(RATE_PER_S)
                if (wait_s := due_s - time.perf_counter()) > 0:
                    await asyncio.sleep(wait_s)
                tasks.append(group.create_task(answered(pool, request, due_s)))
    latencies_s = [task.result() for task in tasks]
    figures = {"hit_p50_s": statistics.median(latencies_s), "hit_p99_s": percentile(latencies_s, 0.99)}
    facts = {"n_requests": len(requests), "max_s": max(latencies_s), "client_late_p99_s": percentile(late_s, 0.99)}
    return Sample(figures, {"open_loop": facts})


async def _closed_loop(server: ServerProcess, draw: random.Random) -> Sample:
    """Each connection asks again as soon as it is answered."""
    # More than any gateway answers in this time; what is left over is not asked.
    requests = _stored(draw, N_ANSWERS // 2)
    latencies_s: list[float] = []

    async def ask(connection: Connection, until_s: float) -> None:
        while time.perf_counter() < until_s:
            latencies_s.append(check(await connection.ask(requests.pop()), source=b"hit").latency_s)

    gateway = psutil.Process(server.pid)
    await asyncio.sleep(_SETTLE_S)
    with no_collection():
        async with Pool.connect(server.endpoint, N_CONNECTIONS) as pool:
            used_s, own_s = sum(gateway.cpu_times()[:2]), time.process_time()
            started_s = time.perf_counter()
            await asyncio.gather(*(ask(one, started_s + CLOSED_LOOP_S) for one in pool.connections))
            took_s = time.perf_counter() - started_s
            used_s, own_s = sum(gateway.cpu_times()[:2]) - used_s, time.process_time() - own_s
    n_hits = len(latencies_s)
    facts = {
        "n_requests": n_hits,
        "p50_s": statistics.median(latencies_s),
        "p99_s": percentile(latencies_s, 0.99),
        # Far below 1: it is not the client that is measured.
        "client_core_ratio": own_s / took_s,
    }
    return Sample({"hits_per_s": n_hits / took_s, "hit_cpu_us": 1e6 * used_s / n_hits}, {"closed_loop": facts})


async def _misses(servers: Servers, round_number: int) -> Sample:
    """Requests that were never asked before, to one gateway and the other in turns."""
    requests = [post(_PATH, chat(MISS_ORDER, "miss", round_number, number)) for number in range(N_MISSES)]
    with_s: list[float] = []
    without_s: list[float] = []
    await asyncio.sleep(_SETTLE_S)
    with no_collection():
        async with (
            Pool.connect(servers.cached.endpoint, 1) as cached,
            Pool.connect(servers.plain.endpoint, 1) as plain,
        ):
            turns = [(cached, b"miss", with_s), (plain, b"bypass", without_s)]
            for request in requests:
                for pool, source, latencies_s in turns:
                    latencies_s.append(check(await pool.ask(request), source=source).latency_s)
                turns.reverse()
    added_s = statistics.median(with_s) - statistics.median(without_s)
    return Sample({"miss_added_s": added_s}, {"misses": {"with_s": with_s, "without_s": without_s}})


async def _identical(server: ServerProcess, round_number: int) -> Sample:
    """The same request so many times at once, each on a connection of its own."""
    request = post(_PATH, chat(JOIN_ORDER, "identical", round_number))
    before = await _generated_tokens(server)
    async with Pool.connect(server.endpoint, N_IDENTICAL) as pool:
        replies = await asyncio.gather(*(pool.ask(request) for _ in range(N_IDENTICAL)))
    sources = [reply.headers.get(b"x-cache", b"").decode() for reply in replies]
    if failed := [reply.status for reply in replies if reply.status != 200]:
        raise BenchError(f"of {N_IDENTICAL} identical requests {len(failed)} failed, with status {failed[0]}")
    n_generations = (await _generated_tokens(server) - before) / N_TOKENS
    facts = {source: sources.count(source) for source in sorted(set(sources))}
    return Sample({"n_generations": n_generations}, {"identical": facts})


async def _generated_tokens(server: ServerProcess) -> float:
    """What the engine has computed for anybody since the start."""
    _, metrics = await (await send(server.endpoint, "GET", "/metrics")).body(TIMEOUT_S)
    found = _GENERATED.search(metrics)
    if found is None:
        raise BenchError("the gateway's metrics don't say how many tokens were generated")
    return float(found[1])


def _stored(draw: random.Random, n_requests: int) -> list[bytes]:
    """Requests whose answers are stored, spread over all there are."""
    return [post(_PATH, stored_chat(number)) for number in draw.sample(range(N_ANSWERS), n_requests)]
