"""``python -m appliance.engine.llama.speed``: how fast a model file is computed on this machine (see ``job``).

One sequence alone: a prompt in chunks, then an answer token by token. Medians, so that what else happens on the machine
for a moment doesn't count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import msgspec

from appliance.engine.devices import Speed
from appliance.engine.llama.context import Context
from appliance.engine.llama.job import LlamaLog, run_job, say_progress
from appliance.engine.llama.library import device, has_gpu
from appliance.engine.llama.model import Model
from appliance.engine.llama.threads import ComputeThreads
from appliance.engine.sequence import Sequence
from appliance.engine.step import Chunk
from appliance.errors import ApplianceError, ConfigError

_CHUNK = 64


def _measure(request: dict[str, Any]) -> Any:
    """``limit_s`` ends the measurement with what it has; ``n_prompt`` is a multiple of the chunks' size."""
    n_prompt, n_decode = request["n_prompt"], request["n_decode"]
    on_cpu = request["n_gpu_layers"] == 0 or not has_gpu()
    log = LlamaLog()
    started = time.perf_counter()
    try:
        with (
            Model(request["model"], n_gpu_layers=request["n_gpu_layers"]) as model,
            ComputeThreads(request["n_threads"], request["n_threads"], poll=0, may_adapt=on_cpu) as threads,
            Context(
                model,
                n_ctx=n_prompt + n_decode + _CHUNK,
                n_batch=_CHUNK,
                n_seq_max=1,
                n_outputs_max=_CHUNK,
                threads=threads,
                on_cpu=on_cpu,
            ) as context,
        ):
            run = _Run(context, model.n_vocab)
            run.step(_CHUNK)  # what is mapped comes from the disk, and kernels are made ready
            load_s = time.perf_counter() - started
            deadline = time.perf_counter() + request["limit_s"]
            say_progress(1, 3)
            prompt_s = _times(lambda: run.step(_CHUNK), n_prompt // _CHUNK, deadline)
            say_progress(2, 3)
            decode_s = _times(lambda: run.step(1), n_decode, deadline)
    except ApplianceError as error:
        raise ConfigError(f"{error.message} ({log.warnings})") from None
    return msgspec.to_builtins(
        Speed(
            prompt_tokens_per_s=_CHUNK / median(prompt_s),
            decode_tokens_per_s=1 / median(decode_s),
            device="CPU" if on_cpu else device(),
            load_s=load_s,
        )
    )


class _Run:
    """A sequence of arbitrary tokens: how fast they are computed doesn't depend on which they are."""

    def __init__(self, context: Context, n_vocab: int) -> None:
        self._context = context
        self._n_vocab = n_vocab
        self._sequence = Sequence("speed", 0, [], n_prompt=0)

    def step(self, n_tokens: int) -> None:
        start = len(self._sequence.tokens)
        self._sequence.tokens += [7919 * (start + i) % self._n_vocab for i in range(n_tokens)]
        self._context.decode(
            (Chunk(self._sequence, 0, start, n_tokens, wants_logits=True, is_decode=n_tokens == 1),), lone_slot=None
        )
        self._context.logits(1).argmax()  # on a GPU, computing has ended only when its result is here


def _times(step: Callable[[], None], n_steps: int, deadline: float) -> list[float]:
    """How long each step took; at least one is done."""
    taken: list[float] = []
    while len(taken) < n_steps and (not taken or time.perf_counter() < deadline):
        started = time.perf_counter()
        step()
        taken.append(time.perf_counter() - started)
    return taken


if __name__ == "__main__":
    run_job(_measure)
