"""The context: the KV cache and the computation on it."""

from __future__ import annotations

import ctypes
from types import TracebackType
from typing import Any, Self

import numpy as np

from appliance.engine.backend import BackendFatal, BadBatch, KVCacheFull
from appliance.engine.llama.library import lib
from appliance.engine.llama.load_log import LoadLog
from appliance.engine.llama.model import Model
from appliance.engine.llama.sequence_ids import SequenceIds
from appliance.engine.llama.threads import ComputeThreads
from appliance.engine.slots import Copy, Cut, Operation, Release
from appliance.engine.step import Chunk
from appliance.errors import EngineFailed

# The binding's own makes a pointer object of each address, which is slow.
_get_logits = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(("llama_get_logits", lib._lib))
Logits = np.ndarray[Any, np.dtype[np.float32]]

# What the numbers in a KV cache can be: names and numbers of ggml_type in ggml.h (the binding lacks some).
CACHE_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2}


class Batch:
    """A ``llama_batch`` over arrays of ours, filled in whole instead of token by token."""

    def __init__(self, n_max: int) -> None:
        self._tokens = np.zeros(n_max, np.int32)
        self._pos = np.zeros(n_max, np.int32)
        self._n_seq_id = np.ones(n_max, np.int32)
        self._seq_id = np.zeros(n_max, np.int32)
        first = self._seq_id.ctypes.data
        self._seq_id_pointers = (first + np.arange(n_max) * self._seq_id.itemsize).astype(np.uintp)
        self._wants_logits = np.zeros(n_max, np.int8)
        self.struct = lib.llama_batch()
        for name, array, kind in (
            ("token", self._tokens, lib.llama_token),
            ("pos", self._pos, lib.llama_pos),
            ("n_seq_id", self._n_seq_id, ctypes.c_int32),
            ("seq_id", self._seq_id_pointers, ctypes.POINTER(lib.llama_seq_id)),
            ("logits", self._wants_logits, ctypes.c_int8),
        ):
            setattr(self.struct, name, array.ctypes.data_as(ctypes.POINTER(kind)))

    def fill(self, tokens: list[int], positions: list[int], sequences: list[int], outputs: list[int]) -> None:
        """Sets the batch's tokens, each one's position and sequence, and the indices of those that want logits."""
        n_tokens = len(tokens)
        self._tokens[:n_tokens] = tokens
        self._pos[:n_tokens] = positions
        self._seq_id[:n_tokens] = sequences
        self._wants_logits[:n_tokens] = 0
        self._wants_logits[outputs] = 1
        self.struct.n_tokens = n_tokens


class Context:
    """Owns a ``llama_context`` with one KV cache for all sequences; use with ``with``."""

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        n_batch: int,
        n_seq_max: int,
        n_outputs_max: int,
        threads: ComputeThreads,
        on_cpu: bool,
        type_k: str = "f16",
        type_v: str = "f16",
    ) -> None:
        """``n_outputs_max`` tokens of a batch may want logits. ``type_k`` and ``type_v`` are names of ``CACHE_TYPES``.

        The last of ``n_seq_max`` sequences is nobody's slot: it holds nothing between steps.

        Raises:
            EngineOutOfMemory: there is no memory for it.
            EngineFailed: the model can't have such a context.
        """
        params = lib.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = n_batch
        params.n_ubatch = n_batch
        params.n_seq_max = n_seq_max
        params.n_outputs_max = n_outputs_max  # else room for a whole batch's is set aside
        params.op_offload = not on_cpu  # else a GPU takes large batches even of a model that is kept off it
        # For a quantized V, llama.cpp turns flash attention on by itself, and refuses models that can't have it.
        params.type_k, params.type_v = cache_type("type_k", type_k), cache_type("type_v", type_v)
        params.kv_unified = True  # sequences share cells; without it a partial seq_cp aborts the process
        self._n_vocab = model.n_vocab
        self._can_cut = model.can_cut_memory
        # Views of the output buffer by its address and their rows: to make one costs more than to use it.
        self._logits: dict[tuple[int, int], Logits] = {}
        self.n_outputs_max = n_outputs_max
        with LoadLog() as log:
            self.handle: Any = lib.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise log.error(f"llama.cpp can't make a context of {n_ctx} tokens, K as {type_k} and V as {type_v}")
        self.buffers = log.buffers
        self.n_ctx: int = lib.llama_n_ctx(self.handle)
        self._memory: Any = lib.llama_get_memory(self.handle)
        self._ids = SequenceIds(self._memory, n_seq_max, is_recurrent=model.is_recurrent)
        self._threads = threads
        threads.attach(self.handle)
        self._batch = Batch(n_batch + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lib.llama_free(self.handle)

    def reserve(self) -> None:
        """Takes what memory its steps will, which has changed with the adapter; nothing may be in its KV cache."""
        self._batch.fill([0], [0], [0], [0])
        with LoadLog() as log:
            code = lib.llama_decode(self.handle, self._batch.struct)
        if code:
            raise log.error("llama.cpp can't compute with the adapter")
        self.release(0)
        computing = tuple(buffer for buffer in log.buffers if buffer.kind == "compute")
        self.buffers = tuple(buffer for buffer in self.buffers if buffer.kind != "compute") + computing

    def apply_memory(self, operations: tuple[Operation, ...]) -> None:
        """Copies, cuts and frees sequences, in this order."""
        for operation in operations:
            match operation:
                case Copy(source, target, n_tokens):
                    end = n_tokens if self._can_cut else -1  # some kinds of memory abort at any other end
                    lib.llama_memory_seq_cp(self._memory, self._ids[source], self._ids[target], 0, end)
                case Cut(slot, n_tokens):
                    self.cut(slot, n_tokens)
                case Release(slot):
                    self.release(slot)

    def cut(self, slot: int, n_tokens: int) -> None:
        """Leaves the first ``n_tokens`` tokens of a slot."""
        lib.llama_memory_seq_rm(self._memory, self._ids[slot], n_tokens, -1)

    def release(self, slot: int) -> None:
        if not lib.llama_memory_seq_rm(self._memory, self._ids[slot], -1, -1):
            raise BackendFatal(f"llama_memory_seq_rm refused to free slot {slot}")

    def state_bytes(self, slot: int) -> int:
        """How large a copy of what the KV cache holds of ``slot`` is."""
        return int(lib.llama_state_seq_get_size(self.handle, self._ids[slot]))

    def copy_state(self, slot: int, target: memoryview) -> bool:
        """Copies what the KV cache holds of ``slot``; false if that isn't as large as ``target``."""
        n_copied = lib.llama_state_seq_get_data(self.handle, _bytes_of(target), len(target), self._ids[slot])
        return bool(n_copied == len(target))

    def restore_state(self, slot: int, state: memoryview, n_tokens: int) -> bool:
        """Fills ``slot`` with the first ``n_tokens`` tokens of a copy; false if it is none of such a KV cache."""
        number = self._ids[slot]
        if lib.llama_state_seq_set_data(self.handle, _bytes_of(state), len(state), number) != len(state):
            self.release(slot)
            return False
        last = lib.llama_memory_seq_pos_max(self._memory, number)
        if last + 1 > n_tokens:
            lib.llama_memory_seq_rm(self._memory, number, n_tokens, -1)
            last = lib.llama_memory_seq_pos_max(self._memory, number)
        if last + 1 != n_tokens:
            self.release(slot)
            return False
        return True

    def decode(self, chunks: tuple[Chunk, ...], *, lone_slot: int | None) -> list[int]:
        """Computes the chunks; returns the batch index of the last token of each that wants logits.

        ``lone_slot``: a slot to compute a second, meaningless token in if there would be only one.
        """
        tokens: list[int] = []
        positions: list[int] = []
        numbers: list[int] = []
        outputs: list[int] = []
        self._ids.line_up([chunk.slot for chunk in chunks])
        for chunk in chunks:
            end = chunk.start + chunk.n_tokens
            tokens += chunk.sequence.tokens[chunk.start : end]
            if chunk.wants_logits:
                outputs += range(len(tokens) - 1, len(tokens) + len(chunk.draft))
            if chunk.draft:
                tokens += chunk.draft
                end += len(chunk.draft)
            positions += range(chunk.start, end)
            numbers += [self._ids[chunk.slot]] * (end - chunk.start)
        has_prompts = len(tokens) > len(chunks)
        if len(tokens) == 1 and lone_slot is not None:
            tokens.append(tokens[0])
            positions.append(0)
            numbers.append(self._ids[lone_slot])
        self._batch.fill(tokens, positions, numbers, outputs)
        try:
            self._compute(has_prompts=has_prompts)
        finally:
            if lone_slot is not None:
                self.release(lone_slot)
        return outputs

    def go_on(self, parts: list[tuple[int, int, list[int]]]) -> Logits:
        """Computes tokens of slots, given as (slot, start, tokens); the raw logits behind the last one of each part.

        Valid until the next decode.
        """
        tokens: list[int] = []
        positions: list[int] = []
        numbers: list[int] = []
        outputs: list[int] = []
        for slot, start, part in parts:
            tokens += part
            positions += range(start, start + len(part))
            numbers += [self._ids[slot]] * len(part)
            outputs.append(len(tokens) - 1)
        self._batch.fill(tokens, positions, numbers, outputs)
        self._compute(has_prompts=len(tokens) > len(parts))
        return self.logits(len(parts))

    def evaluate(self, tokens: list[int], start: int) -> Logits:
        """Computes tokens of sequence 0 from position ``start`` on; the raw logits of each, until the next call."""
        every = list(range(len(tokens)))
        self._batch.fill(tokens, [start + i for i in every], [0] * len(tokens), every)
        self._compute(has_prompts=True)
        return self.logits(len(tokens))

    def _compute(self, *, has_prompts: bool) -> None:
        self._threads.begin_step(self.handle, has_prompts=has_prompts)
        self._decode()
        self._threads.end_step()

    def _decode(self) -> None:
        match lib.llama_decode(self.handle, self._batch.struct):
            case 0:
                return
            case 1:
                raise KVCacheFull(f"no room in the KV cache for {self._batch.struct.n_tokens} tokens")
            case -1:
                raise BadBatch(f"llama_decode refused a batch of {self._batch.struct.n_tokens} tokens")
            case code:
                raise BackendFatal(f"llama_decode returned {code}")

    def logits(self, n_outputs: int) -> Logits:
        """The raw logits of the latest decode, shape (n_outputs, n_vocab), in the batch's order.

        Valid until the next decode.
        """
        key = _get_logits(self.handle), n_outputs
        logits = self._logits.get(key)
        if logits is None:
            if len(self._logits) > self.n_outputs_max:  # llama.cpp has moved its output buffer
                self._logits.clear()
            values = (ctypes.c_float * (n_outputs * self._n_vocab)).from_address(key[0])
            logits = self._logits[key] = np.ctypeslib.as_array(values).reshape(n_outputs, self._n_vocab)
        return logits


def _bytes_of(memory: memoryview) -> Any:
    """As a C array, which is valid as long as ``memory`` is."""
    return (ctypes.c_uint8 * len(memory)).from_buffer(memory)


def cache_type(setting: str, name: str) -> int:
    if name not in CACHE_TYPES:
        raise EngineFailed(f"{setting}={name!r}: a KV cache can be {', '.join(CACHE_TYPES)}")
    return CACHE_TYPES[name]
