"""``python -m bench.probes.vocabulary GGUF``: what choosing and writing a token costs, in microseconds.

Each kind of request runs alone through the engine. Timed is all that the backend does with a token's logits once they
are computed; and, by itself, the first time that a token's text is looked up.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from appliance.engine.core import EngineCore
from appliance.engine.llama.backend import LlamaBackend
from appliance.engine.messages import Submit
from appliance.engine.params import SamplingParams
from bench.engine_config import engine_config

N_TOKENS = 300
N_PIECES = 2000
KINDS: dict[str, dict[str, Any]] = {
    "greedy_us": {"params": SamplingParams(temperature=0)},
    "sampled_us": {"params": SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)},
    "logprobs_us": {"params": SamplingParams(temperature=0), "top_logprobs": 20},
}


def main() -> None:
    config = engine_config(Path(sys.argv[1]), n_ctx=1024, n_threads=1, max_running=8)
    with LlamaBackend(config) as backend:
        times_s = _time_samples(backend)
        core = EngineCore(
            backend, n_batch=config.n_batch, max_running=config.max_running, prefix_reuse=config.prefix_reuse
        )
        costs = {}
        for kind, fields in KINDS.items():
            core.submit(Submit(request_id=kind, tokens=(100, 200, 300), max_tokens=N_TOKENS, ignore_eos=True, **fields))
            times_s.clear()
            while not core.is_idle:
                core.step()
            costs[kind] = 1e6 * statistics.median(times_s)
        costs["detokenize_us"] = _detokenize_us(backend)
        sys.stdout.write(json.dumps({"n_vocab": backend.info.n_vocab, "costs": costs}))


def _time_samples(backend: LlamaBackend) -> list[float]:
    """A list that gets the seconds of each call from now on."""
    times_s: list[float] = []
    sample = backend._sample_all

    def timed(*arguments: Any) -> Any:
        started_s = time.perf_counter()
        result = sample(*arguments)
        times_s.append(time.perf_counter() - started_s)
        return result

    backend._sample_all = timed  # type: ignore[method-assign, assignment]
    return times_s


def _detokenize_us(backend: LlamaBackend) -> float:
    tokens = random.Random(1).sample(range(backend.info.n_vocab), N_PIECES)
    started_s = time.perf_counter()
    for token in tokens:
        backend.piece(token)
    return 1e6 * (time.perf_counter() - started_s) / N_PIECES


if __name__ == "__main__":
    main()
