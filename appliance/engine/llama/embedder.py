"""The embedder over llama.cpp: many texts in one decode, a vector of each."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np

from appliance.engine.backend import BackendFatal, BackendInfo, BadBatch, OnProgress
from appliance.engine.build import engine_build
from appliance.engine.llama import library
from appliance.engine.llama.backend import DEFAULT_N_CTX, anonymous_bytes
from appliance.engine.llama.context import Batch, cache_type
from appliance.engine.llama.library import lib
from appliance.engine.llama.load_log import LoadLog
from appliance.engine.llama.model import load_model
from appliance.engine.llama.threads import ComputeThreads
from appliance.engine.messages import MAX_EMBEDDED, Buffer, EngineConfig
from appliance.errors import EngineFailed

# enum llama_pooling_type in llama.h.
_POOLING = {"mean": 1, "cls": 2, "last": 3}
# The binding's own makes a pointer object of each address, which is slow.
_get_embeddings = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)(
    ("llama_get_embeddings_seq", lib._lib)
)


class LlamaEmbedder:
    """A model with a context that keeps nothing from one batch to the next; use with ``with``."""

    def __init__(self, config: EngineConfig, on_progress: OnProgress = lambda ratio: True) -> None:
        """Loads the model.

        Raises:
            EngineFailed: that can't be done.
            EngineOutOfMemory: there is no memory for the model, or for such a context.
            LoadCancelled: ``on_progress`` says so.
        """
        if config.pooling not in _POOLING:
            raise EngineFailed(f"{config.model_path} pools by {config.pooling!r}: this release has no use for that")
        library.start()
        self._model = load_model(config, on_progress)
        with ExitStack() as stack:
            stack.push(self._model)
            self._open_context(config, stack)
            self._resources = stack.pop_all()

    def _open_context(self, config: EngineConfig, stack: ExitStack) -> None:
        model = self._model
        n_ctx = min(config.n_ctx or DEFAULT_N_CTX, model.n_ctx_train)
        # A text isn't cut: attention goes in both directions, or its last token is what counts. And llama.cpp wants a
        # token for each sequence.
        n_tokens = max(n_ctx, config.n_batch, MAX_EMBEDDED)
        on_cpu = config.n_gpu_layers == 0 or not library.has_gpu()
        self._threads = stack.enter_context(
            ComputeThreads(config.n_threads, config.n_threads_batch, config.poll, may_adapt=on_cpu)
        )
        params = lib.llama_context_default_params()
        params.embeddings = True
        params.pooling_type = _POOLING[config.pooling]
        params.n_ctx = params.n_batch = params.n_ubatch = n_tokens
        params.n_seq_max = MAX_EMBEDDED
        params.n_threads = config.n_threads
        params.n_threads_batch = config.n_threads_batch
        params.op_offload = not on_cpu
        params.type_k, params.type_v = cache_type("type_k", config.type_k), cache_type("type_v", config.type_v)
        params.kv_unified = True  # else each sequence had a part of the cells
        with LoadLog() as log:
            self._handle: Any = lib.llama_init_from_model(model.handle, params)
        if not self._handle:
            raise log.error(f"llama.cpp can't make a context for {n_tokens} tokens of embeddings")
        stack.callback(lib.llama_free, self._handle)
        self._threads.attach(self._handle)
        self._memory: Any = lib.llama_get_memory(self._handle)  # none of an encoder
        self._batch = Batch(n_tokens)
        self.n_embd: int = lib.llama_model_n_embd_out(model.handle)
        # llama.cpp allocates it when such a batch comes. An encoder's part for logits stays untouched.
        output_bytes = 4 * n_tokens * (self.n_embd + (model.n_vocab if self._memory else 0))
        self.info = BackendInfo(
            n_ctx=n_ctx,
            n_ctx_train=model.n_ctx_train,
            n_vocab=model.n_vocab,
            n_seq_max=MAX_EMBEDDED,
            can_cut_prefix=False,
            exact_batch=None,
            exact_reuse=False,
            build=engine_build(),
            device=library.device(),
            buffers=(*model.buffers, *log.buffers, Buffer("CPU", "output", output_bytes)),
            anonymous_bytes=anonymous_bytes() + output_bytes,
            n_gpu_layers=model.n_gpu_layers,
            has_gpu=library.has_gpu(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.__exit__(kind, error, trace)

    def tokenize(self, text: str) -> list[int]:
        return self._model.tokenize_whole(text)

    def token_name(self, token: int) -> bytes:
        return self._model.token_name(token)

    def embed(self, inputs: Sequence[list[int]]) -> list[bytes]:
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        for number, one in enumerate(inputs):
            tokens += one
            positions += range(len(one))
            sequences += [number] * len(one)
        self._batch.fill(tokens, positions, sequences, list(range(len(tokens))))
        if self._memory:
            lib.llama_memory_clear(self._memory, False)
        self._threads.begin_step(self._handle, has_prompts=True)
        code = lib.llama_decode(self._handle, self._batch.struct)
        self._threads.end_step()
        if code in (1, -1):
            raise BadBatch(f"llama_decode refused {len(inputs)} texts of {len(tokens)} tokens together ({code})")
        if code != 0:
            raise BackendFatal(f"llama_decode returned {code}")
        return [self._vector(number) for number in range(len(inputs))]

    def _vector(self, sequence: int) -> bytes:
        address = _get_embeddings(self._handle, sequence)
        values = np.ctypeslib.as_array((ctypes.c_float * self.n_embd).from_address(address))
        norm = float(np.linalg.norm(values))
        if not np.isfinite(norm):
            return b""
        return (values / norm if norm > 0 else values).astype("<f4").tobytes()
