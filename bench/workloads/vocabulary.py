"""What a vocabulary of 152,000 tokens costs beside one of 49,000."""

from __future__ import annotations

import shutil
import tarfile
from functools import partial
from pathlib import Path

from bench.bench import Bench
from bench.errors import BenchError
from bench.figures import Figure, Target
from bench.process import run_probe
from bench.rounds import Measure, Sample, run_rounds
from bench.workloads.base import Measured
from scripts.llama_wheel import cache_dir, fetch_source

# The tokenizers that llama.cpp's source carries; the large one is the first contestant.
TOKENIZERS = {"152k": "qwen2", "49k": "starcoder"}
_SMALL = "49k"


class Vocabulary:
    name = "vocabulary"
    title = "a vocabulary of 152k tokens beside one of 49k"
    has_model = False
    has_peers = False
    figures = tuple(
        Figure(name, meaning, Target("at most", 3.3, _SMALL))
        for name, meaning in (
            ("greedy_us", "greedy choice of a token"),
            ("sampled_us", "choice with temperature, top_k, top_p, min_p"),
            ("logprobs_us", "greedy choice with 20 logprobs"),
            ("detokenize_us", "a token's text, looked up the first time"),
        )
    )

    async def run(self, bench: Bench) -> Measured:
        await bench.stop_servers()
        contestants: dict[str, Measure] = {}
        described = {}
        for size, tokenizer in TOKENIZERS.items():
            name = f"{size} ({tokenizer})"
            contestants[name] = partial(_measure, bench, await _model(tokenizer, bench))
            described[name] = f"one layer of random weights over the tokenizer of {tokenizer}"
        rounds = await run_rounds(contestants, bench.options.rounds, say=bench.say)
        return Measured(described, rounds, {"n_threads": 1})


async def _measure(bench: Bench, model: Path, round_number: int) -> Sample:
    measured = await run_probe("bench.probes.vocabulary", model, log=bench.scratch / "vocabulary.log")
    return Sample(measured["costs"], {"n_vocab": measured["n_vocab"]})


async def _model(tokenizer: str, bench: Bench) -> Path:
    """A model over this tokenizer; kept in the cache folder."""
    target = cache_dir() / "bench" / f"vocabulary-{tokenizer}.gguf"
    if not target.exists():
        bench.say(f"  writing a model over the tokenizer of {tokenizer}")
        target.parent.mkdir(parents=True, exist_ok=True)
        vocabulary, part = tokenizer_file(tokenizer, bench.scratch), bench.scratch / f"{tokenizer}.gguf"
        await run_probe("bench.probes.vocabulary_model", vocabulary, part, log=bench.scratch / "vocabulary.log")
        shutil.move(part, target)
    return target


def tokenizer_file(tokenizer: str, folder: Path) -> Path:
    """The file of that tokenizer, out of the source package that the appliance's llama.cpp was built from.

    Raises:
        BenchError: the package doesn't carry it.
    """
    target = folder / f"ggml-vocab-{tokenizer}.gguf"
    with tarfile.open(fetch_source(cache_dir() / "sources")) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.name.endswith(f"models/{target.name}") else None
            if content is not None:
                with content, target.open("wb") as out:
                    shutil.copyfileobj(content, out)
                return target
    raise BenchError(f"llama-cpp-python's source package carries no {target.name}")
