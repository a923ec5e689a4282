"""The gateway's own cost: a real gateway process whose engine computes nothing."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from functools import partial
from typing import Any

import psutil

from bench.bench import Bench
from bench.client import Answer
from bench.figures import Figure, Target
from bench.load import complete
from bench.process import ServerProcess, free_port, run_server
from bench.rounds import Sample, run_rounds
from bench.workloads.base import Measured
from bench.workloads.http import output_rate

GATEWAY = "gateway"
N_STREAMS = 64
# Every 10 ms a token for each stream, 6,400 a second: more than any engine here computes.
STEP_S = 0.01
N_TOKENS = 400
_SETTLE_S = 0.2


class Gateway:
    name = "gateway"
    title = "gateway with a fake engine, 64 streams"
    has_model = False
    has_peers = False
    figures = (
        Figure("cpu_us", "processor time a streamed token, 6,400 tokens/s", Target("at most", 60.0)),
        Figure("tokens_per_s", "tokens/s, as fast as it takes them", Target("at least", 10_000.0)),
        Figure("full_speed_cpu_us", "processor time a token at that speed"),
    )

    async def run(self, bench: Bench) -> Measured:
        await bench.stop_servers()
        port = free_port()
        with tempfile.TemporaryDirectory(prefix="bench-gateway-") as state_dir:
            command = [sys.executable, "-m", "bench.probes.gateway", str(port), state_dir]
            async with run_server(
                command, port=port, health_path="/health/ready", log=bench.scratch / "gateway.log"
            ) as server:
                await complete(server.endpoint, [f"{N_STREAMS} 0.001"] * N_STREAMS, max_tokens=20)
                rounds = await run_rounds(
                    {GATEWAY: partial(self._measure, server)}, bench.options.rounds, say=bench.say
                )
        description = f"one process; {N_TOKENS} tokens a stream, a token a frame, one frame a step"
        return Measured({GATEWAY: description}, rounds, {"n_streams": N_STREAMS})

    async def _measure(self, server: ServerProcess, round_number: int) -> Sample:
        paced_us, paced = await _cost_us(server, STEP_S)
        full_us, full = await _cost_us(server, 0.0)
        figures = {"cpu_us": paced_us, "tokens_per_s": output_rate(full), "full_speed_cpu_us": full_us}
        return Sample(figures, {"paced": _facts(paced), "full_speed": _facts(full)})


async def _cost_us(server: ServerProcess, step_s: float) -> tuple[float, list[Answer]]:
    """The gateway's processor time a token in microseconds, requests included, and the answers."""
    await asyncio.sleep(_SETTLE_S)
    gateway = psutil.Process(server.pid)
    before = gateway.cpu_times()
    answers = await complete(server.endpoint, [f"{N_STREAMS} {step_s}"] * N_STREAMS, max_tokens=N_TOKENS)
    after = gateway.cpu_times()
    used_s = after.user + after.system - before.user - before.system
    return 1e6 * used_s / sum(answer.n_tokens for answer in answers), answers


def _facts(answers: list[Answer]) -> dict[str, Any]:
    """``n_reads`` is near ``n_tokens`` where every token came by itself."""
    return {
        "tokens_per_s": output_rate(answers),
        "n_tokens": sum(answer.n_tokens for answer in answers),
        "n_reads": sum(len(set(answer.text_times_s)) for answer in answers),
    }
