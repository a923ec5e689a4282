"""The engine's loop over the real model, in the test's process."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from appliance.engine.client import EngineClient, EngineProcess
from appliance.engine.core import EngineCore
from appliance.engine.llama.backend import LlamaBackend
from appliance.engine.messages import EngineConfig, Event, Finished, Piece, Submit
from appliance.models.store import StoredModel

# Each token of their greedy continuations leads the next best by more than 1.5 nat, which a test checks.
SAFE_PROMPTS = [
    "1, 2, 3, 4, 5, 6, 7,",
    "10, 20, 30, 40, 50, 60,",
    "5, 10, 15, 20, 25, 30, 35,",
    "11, 12, 13, 14, 15, 16,",
    "100, 101, 102, 103, 104,",
    "2, 4, 6, 8, 10, 12, 14,",
    "a, b, c, d, e, f, g,",
    "20, 21, 22, 23, 24, 25,",
]


_compiled = threading.Semaphore(0)


@asynccontextmanager
async def started(config: EngineConfig, module: str = "appliance.engine.llama") -> AsyncIterator[EngineClient]:
    """A real engine process."""
    client = EngineClient(EngineProcess(config, log_level="info", log_format="console", module=module), max_open=8)
    try:
        yield client
    finally:
        client.kill("was ended by the test")
        await client.ended()


def config(stored: StoredModel, **fields: Any) -> EngineConfig:
    defaults = {
        "model_path": str(stored.path),
        "tensor_types": stored.record.header.tensor_types,
        "longest_token_bytes": stored.record.header.longest_token_bytes,
        "n_ctx": 2048,
        "n_batch": 512,
        "prompt_step_s": 0.25,
        "stream_interval_s": 0.01,
        "n_threads": 1,
        "n_threads_batch": 1,
        "poll": 0,
        "n_gpu_layers": 0,
        "max_running": 8,
        "prefix_reuse": True,
    }
    return EngineConfig(**{**defaults, **fields})


def engine(
    backend: LlamaBackend, *, n_batch: int = 512, prefix_reuse: bool = True, speculation: bool = False
) -> EngineCore:
    """A new engine over the loaded model; what another one retained is cleared from the KV cache."""
    for context in backend._contexts:
        for slot in range(backend.info.n_seq_max):
            context.release(slot)
    return EngineCore(
        backend,
        n_batch=n_batch,
        max_running=8,
        prefix_reuse=prefix_reuse,
        speculation=speculation,
        # Whether guesses pay depends on how long steps take: in no time they always do.
        now=(lambda: 0.0) if speculation else time.monotonic,
        on_ready=_compiled.release,
    )


def run(core: EngineCore, *messages: Submit) -> dict[str, list[Event]]:
    """Each request's events, once all have ended."""
    events = [event for message in messages for event in core.submit(message)]
    while core.load.n_waiting or not core.is_idle:
        if core.is_idle:
            assert _compiled.acquire(timeout=60)
        events += core.submit_ready()
        events += core.step()
    return {message.request_id: [e for e in events if e.request_id == message.request_id] for message in messages}


def texts(core: EngineCore, *messages: Submit) -> list[str]:
    results = run(core, *messages)
    return [
        "".join(e.text for e in results[message.request_id] if isinstance(e, Piece) and e.index == index)
        for message in messages
        for index in range(message.n)
    ]


def finished(events: list[Event]) -> Finished:
    assert isinstance(events[-1], Finished), events[-1]
    return events[-1]
