"""The engine's loop in a process of its own, beside llama.cpp's program that decodes and doesn't sample."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from bench.bench import Bench
from bench.binaries import BATCHED_BENCH, Binaries
from bench.errors import BenchError
from bench.figures import Figure, Target
from bench.process import run_probe, run_tool
from bench.rounds import Measure, Sample, run_rounds
from bench.workloads.base import Measured

ENGINE = "engine loop"
N_PROMPT = 16
N_STEPS = 128
SEQUENCES = (1, 8)


class EngineLoop:
    name = "engine_loop"
    title = "engine loop, greedy, 1 and 8 sequences"
    has_model = True
    has_peers = True
    figures = (
        Figure("python_share_ratio", "Python's share of a step at 8 sequences", Target("at most", 0.04)),
        Figure("one_tokens_per_s", "tok/s at 1 sequence", Target("at least", 0.93, BATCHED_BENCH)),
        Figure("eight_tokens_per_s", "tok/s at 8 sequences", Target("at least", 0.93, BATCHED_BENCH)),
        Figure("python_us", "Python's time a step at 8 sequences"),
        Figure("sampler_us", "sampler's time a step at 8 sequences"),
    )

    async def run(self, bench: Bench) -> Measured:
        await bench.stop_servers()
        n_threads = bench.options.n_threads
        contestants: dict[str, Measure] = {ENGINE: partial(self._engine, bench)}
        described = {ENGINE: f"EngineCore over LlamaBackend; {N_PROMPT} tokens of prompt, {N_STEPS} steps"}
        for binaries in bench.binaries:
            if binaries.batched_bench is None:
                bench.say(f"  no {BATCHED_BENCH} beside {binaries.server.name}: the engine is measured alone")
                continue
            contestants[binaries.batched_bench_name] = partial(self._batched_bench, bench, binaries)
            described[binaries.batched_bench_name] = f"{binaries.version}; -npp {N_PROMPT} -ntg {N_STEPS} -npl 1,8"
        rounds = await run_rounds(contestants, bench.options.rounds, say=bench.say)
        return Measured(described, rounds, {"n_threads": n_threads})

    async def _engine(self, bench: Bench, round_number: int) -> Sample:
        measured = {}
        for n_sequences in SEQUENCES:
            measured[n_sequences] = await run_probe(
                "bench.probes.engine",
                bench.gguf.path,
                bench.options.n_threads,
                n_sequences,
                N_STEPS,
                log=bench.scratch / "engine.log",
            )
        figures = {
            "python_share_ratio": measured[8]["python_share_ratio"],
            "one_tokens_per_s": measured[1]["tokens_per_s"],
            "eight_tokens_per_s": measured[8]["tokens_per_s"],
            "python_us": measured[8]["python_us"],
            "sampler_us": measured[8]["sampler_us"],
        }
        return Sample(figures, {str(n_sequences): result for n_sequences, result in measured.items()})

    async def _batched_bench(self, bench: Bench, binaries: Binaries, round_number: int) -> Sample:
        assert binaries.batched_bench is not None
        n_threads = str(bench.options.n_threads)
        command: list[str | Path] = [
            binaries.batched_bench,
            "-m",
            bench.gguf.path,
            "-t",
            n_threads,
            "-tb",
            n_threads,
            "-c",
            "8192",
        ]
        command += ["-npp", str(N_PROMPT), "-ntg", str(N_STEPS), "-npl", "1,8", "--output-format", "jsonl"]
        output = await run_tool(command, log=bench.scratch / "batched-bench.log")
        lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        speeds = {line["pl"]: line["speed_tg"] for line in lines}
        if set(SEQUENCES) - set(speeds):
            raise BenchError(f"{BATCHED_BENCH} printed no results:\n{output[-500:]}")
        return Sample({"one_tokens_per_s": speeds[1], "eight_tokens_per_s": speeds[8]}, {"lines": lines})
