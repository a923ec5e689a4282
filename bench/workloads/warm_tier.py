"""Computed prefixes on disk: the first token after a restart and after a switch of models, with them and without."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.bench import Bench
from bench.client import Answer, Endpoint, fetch_json, send
from bench.errors import BenchError
from bench.figures import Figure, Target
from bench.load import complete, finish_all
from bench.peers.appliance import MODEL, Appliance
from bench.peers.base import RunningPeer, Setup
from bench.process import run_probe
from bench.prompts import words
from bench.rounds import Measure, Sample, run_rounds
from bench.workloads.base import Measured, settle

WITH = "with prefixes on disk"
WITHOUT = "without"
N_PREFIX = 1500
N_CHAT = 2000
N_NEXT_TURN = 30
MAX_TOKENS = 16
# Until an engine that has nothing to do has begun to save what it has.
_SAVING_S = 1.5
_LOAD_TIMEOUT_S = 120.0
# Blocks of so many steps, with a prefix that is saved in every second one.
N_STEPS = 200


class WarmTier:
    name = "warm_tier"
    title = "computed prefixes on disk: a restart, a switch of models"
    has_model = True
    has_peers = False
    n_ctx = 8192
    n_slots = 4
    figures = (
        Figure("restart_ttft_s", f"TTFT of {N_PREFIX:,} tokens after a restart", Target("at most", 0.3, WITHOUT)),
        Figure("switch_ttft_s", f"TTFT of a {N_CHAT:,}-token chat's next turn", Target("at most", 0.4, WITHOUT)),
        Figure("itl_p99_ratio", "8 streams' inter-token p99 while prefixes are saved", Target("at most", 1.1)),
    )

    async def run(self, bench: Bench) -> Measured:
        await bench.stop_servers()
        (appliance,) = (peer for peer in bench.peers if isinstance(peer, Appliance))
        setup = bench.setup(n_ctx=self.n_ctx, n_slots=self.n_slots)
        contestants: dict[str, Measure] = {
            WITH: partial(_measure, bench, appliance, setup, None),
            WITHOUT: partial(_measure, bench, appliance, setup, "0"),
        }
        rounds = await run_rounds(contestants, bench.options.rounds, say=bench.say)
        settings = {"n_threads": setup.n_threads, "n_ctx": setup.n_ctx, "n_slots": setup.n_slots}
        return Measured({WITH: appliance.describe(), WITHOUT: "the same, kv_disk_limit=0"}, rounds, settings)


async def _measure(
    bench: Bench, appliance: Appliance, setup: Setup, kv_disk_limit: str | None, round_number: int
) -> Sample:
    with tempfile.TemporaryDirectory(prefix="bench-warm-tier-") as folder:
        state_dir = Path(folder)

        @asynccontextmanager
        async def served() -> AsyncIterator[RunningPeer]:
            log = bench.scratch / "warm-tier.log"
            async with appliance.serve(setup, log, state_dir=state_dir, kv_disk_limit=kv_disk_limit) as server:
                await complete(server.endpoint, [words(20, "warm", round_number)], max_tokens=4)
                yield server

        restart = await _restart(served, round_number)
        switch = await _switch(served, state_dir, round_number)
    figures = {"restart_ttft_s": restart.ttft_s, "switch_ttft_s": switch.ttft_s}
    raw: dict[str, Any] = {"restart_usage": restart.usage, "switch_usage": switch.usage}
    if kv_disk_limit is None:
        probe = await run_probe(
            "bench.probes.warm_tier", setup.gguf, setup.n_threads, N_STEPS, log=bench.scratch / "warm-tier-probe.log"
        )
        figures["itl_p99_ratio"] = probe["saving_p99_s"] / probe["other_p99_s"]
        raw["probe"] = probe
    return Sample(figures, raw)


async def _restart(served: Any, round_number: int) -> Answer:
    prompt = words(N_PREFIX, "warm_tier", "restart", round_number)
    async with served() as server:
        await complete(server.endpoint, [prompt], max_tokens=MAX_TOKENS)
    async with served() as server:
        (answer,) = await complete(server.endpoint, [prompt], max_tokens=MAX_TOKENS)
        return answer


async def _switch(served: Any, state_dir: Path, round_number: int) -> Answer:
    messages = [{"role": "user", "content": words(N_CHAT, "warm_tier", "switch", round_number)}]
    async with served() as server:
        admin = replace(server.endpoint, key=(state_dir / "admin-token").read_text().strip())
        first = await _turn(server.endpoint, messages)
        await asyncio.sleep(_SAVING_S)  # a person reads the answer
        await settle(server)
        for action in ("unload", "load"):
            path = f"/admin/models/{MODEL}/{action}"
            await fetch_json(admin, "POST", path, timeout_s=_LOAD_TIMEOUT_S)
        await complete(server.endpoint, [words(20, "warm", "again", round_number)], max_tokens=4)
        messages.append({"role": "assistant", "content": first.text})
        messages.append({"role": "user", "content": words(N_NEXT_TURN, "warm_tier", "next", round_number)})
        return await _turn(server.endpoint, messages)


async def _turn(endpoint: Endpoint, messages: list[dict[str, str]]) -> Answer:
    body = {
        "messages": messages,
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    (answer,) = await finish_all([await send(endpoint, "POST", "/v1/chat/completions", body)])
    if answer.usage is None:
        raise BenchError("an answer came without usage")
    return answer
