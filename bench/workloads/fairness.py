"""Two tenants of this appliance: one sends a hundred long requests, the other a single short one."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.bench import Bench
from bench.client import Endpoint, Exchange
from bench.errors import NoAnswer
from bench.figures import Figure, Target
from bench.load import check, complete, no_collection, start, start_all
from bench.peers.appliance import Appliance
from bench.prompts import words
from bench.rounds import Sample, run_rounds
from bench.workloads.base import Measured, settle

GREEDY_KEY = "bench-greedy-key-0000"
MODEST_KEY = "bench-modest-key-0000"
N_LONG = 100
N_LONG_PROMPT = 200
N_LONG_TOKENS = 256
N_SHORT_PROMPT = 20
N_SHORT_TOKENS = 16
# Longer than this the short request is not waited for; its latency is then at least so much.
PATIENCE_S = 120.0
# For the other slots, once one request decodes.
_FILL_S = 0.5


class Fairness:
    name = "fairness"
    title = "one key sends 100 long requests, another a single short one"
    has_model = True
    has_peers = False
    n_ctx = 16384
    n_slots = 8
    figures = (
        Figure("delay_ratio", "the short one's delay / the time of one of the long ones", Target("at most", 1.0)),
        Figure("beside_s", "the short one's latency beside them"),
        Figure("alone_s", "its latency alone"),
        Figure("long_s", "the time of a long one, at the pace that those that run have"),
    )

    async def run(self, bench: Bench) -> Measured:
        await bench.stop_servers()
        (appliance,) = (peer for peer in bench.peers if isinstance(peer, Appliance))
        setup = bench.setup(n_ctx=self.n_ctx, n_slots=self.n_slots)
        with tempfile.TemporaryDirectory(prefix="bench-keys-") as folder:
            keys = Path(folder) / "keys"
            keys.write_text(f"{GREEDY_KEY} name=greedy\n{MODEST_KEY} name=modest\n")
            async with appliance.serve(setup, bench.scratch / "fairness.log", keys=keys) as server:
                await complete(replace(server.endpoint, key=MODEST_KEY), [words(30, "warm")], max_tokens=8)

                async def measure(round_number: int) -> Sample:
                    sample = await _measure(server.endpoint, round_number)
                    await settle(server)
                    return sample

                rounds = await run_rounds({appliance.name: measure}, bench.options.rounds, say=bench.say)
        settings = {"n_threads": setup.n_threads, "n_ctx": setup.n_ctx, "n_slots": setup.n_slots}
        return Measured({appliance.name: appliance.describe()}, rounds, settings)


async def _measure(endpoint: Endpoint, round_number: int) -> Sample:
    greedy, modest = replace(endpoint, key=GREEDY_KEY), replace(endpoint, key=MODEST_KEY)
    short = partial(words, N_SHORT_PROMPT, "fairness", round_number)
    (alone,) = await complete(modest, [short("alone")], max_tokens=N_SHORT_TOKENS)
    prompts = [words(N_LONG_PROMPT, "fairness", round_number, number) for number in range(N_LONG)]
    with no_collection():
        crowd = await start_all(greedy, prompts, max_tokens=N_LONG_TOKENS)
        try:
            await _wait_until_full(crowd)
            exchange = await start(modest, short("beside"), max_tokens=N_SHORT_TOKENS)
            try:
                answer = await exchange.finish(PATIENCE_S)
            except NoAnswer:
                beside_s = PATIENCE_S
            else:
                check(answer)
                beside_s = answer.latency_s
        finally:
            for one in crowd:
                one.abort()
    # A key's fair share is half of the slots: more than one request, each at the pace of all that run.
    paces_s = [answer.tpot_s for answer in (one.answer() for one in crowd) if len(answer.text_times_s) > 2]
    long_s = N_LONG_TOKENS * statistics.median(paces_s)
    figures = {
        "delay_ratio": (beside_s - alone.latency_s) / long_s,
        "beside_s": beside_s,
        "alone_s": alone.latency_s,
        "long_s": long_s,
    }
    return Sample(figures, {"has_ended": beside_s < PATIENCE_S})


async def _wait_until_full(crowd: list[Exchange]) -> None:
    """Until the first ones decode: then the slots are taken, and the rest waits."""
    waits = {asyncio.create_task(one.wait_for_more(2, PATIENCE_S)) for one in crowd}
    done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in pending:
        wait.cancel()
    for wait in done:
        wait.result()
    await asyncio.sleep(_FILL_S)
