"""An embedder without a model: tokens are bytes between a mark at the beginning and one at the end.

A text's vector tells its first and last byte and how long it is, so that none is taken for another's.
"""

from __future__ import annotations

import contextlib
import math
import struct
import time
from collections.abc import Sequence

import msgspec

from appliance.engine.backend import BackendInfo, OnProgress
from appliance.engine.messages import EngineConfig
from tests.fake_backend import PREFIX, FakeModel

BEGIN, END = 1, 2


class FakeEmbedder:
    def __init__(self, *, n_ctx: int = 32, n_gpu_layers: int = 0, model: FakeModel | None = None) -> None:
        """Without ``model``, steps take no time."""
        self.info = BackendInfo(
            n_ctx=n_ctx,
            n_ctx_train=n_ctx,
            n_vocab=256,
            n_seq_max=8,
            can_cut_prefix=False,
            exact_batch=None,
            exact_reuse=False,
            build="fake",
            device="fake",
            n_gpu_layers=n_gpu_layers,
            has_gpu=model is not None and model.has_gpu,
        )
        self.n_embd = 4
        self.batches: list[list[list[int]]] = []
        self.errors: list[Exception] = []  # raised by the next steps, in order
        self._step_s = model.step_s if model is not None else 0.0

    def tokenize(self, text: str) -> list[int]:
        return [BEGIN, *text.encode(), END]

    def token_name(self, token: int) -> bytes:
        return {BEGIN: b"<s>", END: b"</s>"}.get(token, bytes([token]))

    def embed(self, inputs: Sequence[list[int]]) -> list[bytes]:
        self.batches.append([list(tokens) for tokens in inputs])
        time.sleep(self._step_s)
        if self.errors:
            raise self.errors.pop(0)
        return [b"" if ord("!") in tokens else vector(tokens) for tokens in inputs]


def vector(tokens: Sequence[int]) -> bytes:
    """Of length one."""
    inner = [token for token in tokens if token not in (BEGIN, END)] or [0]
    values = (inner[0], inner[-1], len(inner), 1.0)
    norm = math.sqrt(sum(value * value for value in values))
    return struct.pack("<4f", *(value / norm for value in values))


def load_fake_embedder(
    config: EngineConfig, on_progress: OnProgress
) -> contextlib.AbstractContextManager[FakeEmbedder]:
    """As an engine process loads its model."""
    orders = config.model_path.removeprefix(PREFIX) if config.model_path.startswith(PREFIX) else "{}"
    model = msgspec.json.decode(orders, type=FakeModel)
    n_gpu_layers = model.n_layers if config.n_gpu_layers < 0 else config.n_gpu_layers
    return contextlib.nullcontext(FakeEmbedder(n_ctx=config.n_ctx or 32, n_gpu_layers=n_gpu_layers, model=model))
