"""``python -m bench.probes.engine GGUF N_THREADS N_SEQUENCES N_STEPS``: the engine's loop without a socket.

All sequences decode greedily. A step is what the engine process does for each token: plan, run, apply, and the
message for the gateway. The calls into llama.cpp and the sampler are timed within it.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.engine.core import EngineCore
from appliance.engine.llama.backend import LlamaBackend
from appliance.engine.llama.library import lib
from appliance.engine.llama.sampler import Sampler
from appliance.engine.messages import Event, Events, Piece, Submit, encode
from appliance.engine.params import SamplingParams
from bench.engine_config import engine_config

N_PROMPT = 16
N_WARM_STEPS = 8
N_CTX = 8192


class Timer:
    """Sums up the time inside the functions that it wraps, in seconds."""

    def __init__(self) -> None:
        self.total_s = 0.0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            started_s = time.perf_counter()
            result = function(*arguments)
            self.total_s += time.perf_counter() - started_s
            return result

        return timed


def main() -> None:
    gguf, n_threads, n_sequences, n_steps = Path(sys.argv[1]), *(int(word) for word in sys.argv[2:])
    config = engine_config(gguf, n_ctx=N_CTX, n_threads=n_threads, max_running=max(32, n_sequences))
    decode, sample = Timer(), Timer()
    with LlamaBackend(config) as backend:
        core = EngineCore(
            backend, n_batch=config.n_batch, max_running=config.max_running, prefix_reuse=config.prefix_reuse
        )
        _start_all(core, backend.info.n_vocab, n_sequences, n_steps)
        lib.llama_decode = decode.wrap(lib.llama_decode)
        Sampler.sample = sample.wrap(Sampler.sample)  # type: ignore[method-assign]
        for _ in range(N_WARM_STEPS):
            _step(core)
        decode.total_s = sample.total_s = 0.0
        started_s = time.perf_counter()
        for _ in range(n_steps):
            _step(core)
        total_s = time.perf_counter() - started_s
        core.abort_all("", "measured")
    inside_s = decode.total_s + sample.total_s
    sys.stdout.write(
        json.dumps(
            {
                "tokens_per_s": n_sequences * n_steps / total_s,
                "step_us": 1e6 * total_s / n_steps,
                "decode_us": 1e6 * decode.total_s / n_steps,
                "sampler_us": 1e6 * sample.total_s / n_steps,
                "python_us": 1e6 * (total_s - inside_s) / n_steps,
                "python_share_ratio": (total_s - inside_s) / total_s,
            }
        )
    )


def _start_all(core: EngineCore, n_vocab: int, n_sequences: int, n_steps: int) -> None:
    """Submits the requests and computes their prompts, all of them different."""
    draw = random.Random(n_sequences)
    for number in range(n_sequences):
        core.submit(
            Submit(
                request_id=str(number),
                tokens=tuple(draw.randrange(100, n_vocab) for _ in range(N_PROMPT)),
                params=SamplingParams(temperature=0),
                max_tokens=n_steps + N_WARM_STEPS + N_PROMPT,
                ignore_eos=True,
            )
        )
    begun: set[str] = set()
    while len(begun) < n_sequences:
        begun |= {event.request_id for event in _step(core) if isinstance(event, Piece)}


def _step(core: EngineCore) -> list[Event]:
    events = core.step()
    encode(Events(tuple(events), core.load))
    return events


if __name__ == "__main__":
    main()
