"""Short texts that are embedded: as one request, and as many."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from bench.bench import Bench
from bench.client import Endpoint, fetch_json
from bench.errors import BenchError
from bench.figures import Figure, Target
from bench.load import TIMEOUT_S, no_collection
from bench.peers.base import APPLIANCE, LLAMA_SERVER, Peer, RunningPeer, Setup
from bench.process import run_probe
from bench.prompts import words
from bench.rounds import Rounds, Sample, run_rounds
from bench.workloads.base import Measured, settle
from bench.workloads.vocabulary import tokenizer_file
from scripts.llama_wheel import cache_dir

# The model's own context, for each of so many slots; llama-server has more texts in a step with more of them.
N_CTX = 512
N_SLOTS = 32
N_TEXTS = 256
# Words in a text: a title, a sentence, a short paragraph.
N_WORDS = (8, 32)
N_CLIENTS = 32


class Embeddings:
    name = "embeddings"
    title = f"{N_TEXTS} short texts embedded, a model of MiniLM's size"
    has_model = False
    has_peers = True
    figures = (
        Figure("texts_per_s", "texts/s, one request", Target("at least", 1.0, LLAMA_SERVER)),
        Figure("single_texts_per_s", f"texts/s, a request each, {N_CLIENTS} at a time"),
    )

    async def run(self, bench: Bench) -> Measured:
        await bench.stop_servers()
        setup = Setup(await _model(bench), bench.options.n_threads, N_CTX * N_SLOTS, N_SLOTS, is_embedding=True)
        peers = [peer for peer in bench.peers if peer.name.startswith((APPLIANCE, LLAMA_SERVER))]
        async with AsyncExitStack() as stack:
            rounds = await self._rounds(bench, peers, setup, stack)
        settings = {"n_threads": setup.n_threads, "n_ctx": setup.n_ctx, "n_slots": N_SLOTS}
        return Measured({peer.name: peer.describe() for peer in peers}, rounds, settings)

    async def _rounds(self, bench: Bench, peers: Sequence[Peer], setup: Setup, stack: AsyncExitStack) -> Rounds:
        contestants = {}
        for number, peer in enumerate(peers):
            server = await stack.enter_async_context(peer.serve(setup, bench.scratch / f"server-{number}.log"))
            await _embed(server.endpoint, texts("warm", peer.name))
            contestants[peer.name] = partial(_measure, server)
        return await run_rounds(contestants, bench.options.rounds, say=bench.say)


async def _measure(server: RunningPeer, round_number: int) -> Sample:
    with no_collection():
        together_s = await _embed(server.endpoint, texts("together", round_number))
        await settle(server)
        singly_s = await _embed_singly(server.endpoint, texts("singly", round_number))
    await settle(server)
    return Sample({"texts_per_s": N_TEXTS / together_s, "single_texts_per_s": N_TEXTS / singly_s})


def texts(*seed: object) -> list[str]:
    """The same seed gives the same texts."""
    draw = random.Random(repr(seed))
    return [words(draw.randint(*N_WORDS), "embeddings", *seed, number) for number in range(N_TEXTS)]


async def _embed(endpoint: Endpoint, given: Sequence[str]) -> float:
    """How long one request with all texts takes. Raises BenchError unless each has a vector."""
    begun_at_s = time.perf_counter()
    answer = await fetch_json(endpoint, "POST", "/v1/embeddings", {"input": list(given)}, timeout_s=TIMEOUT_S)
    took_s = time.perf_counter() - begun_at_s
    if len(answer["data"]) != len(given) or not all(entry["embedding"] for entry in answer["data"]):
        raise BenchError(f"{endpoint.url} gave {len(answer['data'])} vectors of {len(given)} texts")
    return took_s


async def _embed_singly(endpoint: Endpoint, given: Sequence[str]) -> float:
    """How long all take, each in a request of its own."""
    waiting = list(given)

    async def client() -> None:
        while waiting:
            await _embed(endpoint, [waiting.pop()])

    begun_at_s = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(N_CLIENTS)))
    return time.perf_counter() - begun_at_s


async def _model(bench: Bench) -> Path:
    """Kept in the cache folder."""
    target = cache_dir() / "bench" / "embeddings.gguf"
    if not target.exists():
        bench.say("  writing an encoder with random weights")
        target.parent.mkdir(parents=True, exist_ok=True)
        vocabulary, part = tokenizer_file("bert-bge", bench.scratch), bench.scratch / "embeddings.gguf"
        await run_probe("bench.probes.embedding_model", vocabulary, part, log=bench.scratch / "embeddings.log")
        shutil.move(part, target)
    return target
