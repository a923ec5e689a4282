"""Streams over two LoRA adapters and their model, beside as many on the model alone."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.bench import Bench
from bench.client import Answer, Endpoint
from bench.figures import Figure, Target
from bench.load import finish_all, no_collection, start
from bench.lora import write_adapter
from bench.peers.appliance import MODEL, Appliance
from bench.prompts import words
from bench.rounds import Sample, run_rounds
from bench.workloads.base import Measured, settle
from bench.workloads.http import N_SHORT_PROMPT, facts, output_rate

N_STREAMS = 8
MAX_TOKENS = 128
NAMES = ("one", "two")


class Adapters:
    name = "adapters"
    title = f"{N_STREAMS} streams over two adapters and their model, {MAX_TOKENS} tokens each"
    has_model = True
    has_peers = False
    n_ctx = 8192
    figures = (
        Figure("mixed_ratio", "mixed / all on the model alone", Target("at least", 0.6)),
        Figure("mixed_tokens_per_s", "mixed, total output tok/s"),
        Figure("alone_tokens_per_s", "all on the model alone, total output tok/s"),
    )

    async def run(self, bench: Bench) -> Measured:
        await bench.stop_servers()
        (appliance,) = (peer for peer in bench.peers if isinstance(peer, Appliance))
        setup = bench.setup(n_ctx=self.n_ctx, n_slots=N_STREAMS)
        with tempfile.TemporaryDirectory(prefix="bench-adapters-") as folder:
            paths = [Path(folder) / f"{name}.gguf" for name in NAMES]
            for seed, path in enumerate(paths):
                write_adapter(setup.gguf, path, seed=seed)
            async with appliance.serve(setup, bench.scratch / "adapters.log", adapters=paths) as server:
                await _answers(server.endpoint, (MODEL, *(f"{MODEL}:{name}" for name in NAMES)), "warm")

                async def measure(round_number: int) -> Sample:
                    sample = await _measure(server.endpoint, round_number)
                    await settle(server)
                    return sample

                rounds = await run_rounds({appliance.name: measure}, bench.options.rounds, say=bench.say)
        settings = {"n_threads": setup.n_threads, "n_ctx": setup.n_ctx, "n_slots": setup.n_slots}
        return Measured({appliance.name: appliance.describe()}, rounds, settings)


async def _measure(endpoint: Endpoint, round_number: int) -> Sample:
    kinds = (MODEL, *(f"{MODEL}:{name}" for name in NAMES))
    plans = {"mixed": [kinds[number % len(kinds)] for number in range(N_STREAMS)], "alone": [MODEL] * N_STREAMS}
    rates: dict[str, float] = {}
    raw = {}
    for name in sorted(plans, reverse=round_number % 2 == 0):
        answers = await _answers(endpoint, plans[name], name, round_number)
        rates[name] = output_rate(answers)
        raw[name] = [facts(answer) for answer in answers]
    figures = {
        "mixed_ratio": rates["mixed"] / rates["alone"],
        "mixed_tokens_per_s": rates["mixed"],
        "alone_tokens_per_s": rates["alone"],
    }
    return Sample(figures, raw)


async def _answers(endpoint: Endpoint, models: list[str] | tuple[str, ...], *seed: object) -> list[Answer]:
    """One of each of the models, all at once."""
    with no_collection():
        exchanges = [
            await start(
                endpoint,
                words(N_SHORT_PROMPT, "adapters", *seed, number),
                max_tokens=MAX_TOKENS,
                model=model,
            )
            for number, model in enumerate(models)
        ]
        return await finish_all(exchanges)
