"""The backend over llama.cpp."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Self

from llguidance import LLTokenizer

from appliance.engine.backend import BackendInfo, OnProgress, Sampled
from appliance.engine.build import engine_build
from appliance.engine.grammar import Constraint
from appliance.engine.llama import library
from appliance.engine.llama.adapter import Adapter
from appliance.engine.llama.constraint import grammar_vocabulary, mask_logits
from appliance.engine.llama.context import Context, Logits
from appliance.engine.llama.draft_model import DraftModel
from appliance.engine.llama.model import load_model
from appliance.engine.llama.sampler import Sampler, token_logprob
from appliance.engine.llama.threads import ComputeThreads
from appliance.engine.messages import EngineConfig, PromptPart, TokenLogprob
from appliance.engine.params import SamplingParams
from appliance.engine.sequence import Sequence
from appliance.engine.slots import Operation
from appliance.engine.step import Chunk, StepPlan
from appliance.errors import EngineFailed

DEFAULT_N_CTX = 8192
# Slots beyond the running sequences', for prefixes that are kept after their request has ended.
N_RETAINED = 32
# llama.cpp's CPU attention takes the tokens of a batch one by one below 64, and in tiles of cells from there
# on; in tiles, rounding depends on which cells a sequence got (GGML_FA_TILE_Q in ggml-cpu/common.h).
EXACT_BATCH = 63
# Types whose CPU kernels round each row alike whatever other rows are computed with it (measured, with a KV cache of
# F16).
EXACT_TYPES = frozenset({"F32", "Q4_0", "Q4_1", "Q8_0"})


class LlamaBackend:
    """A model with its contexts and the samplers of its sequences; use with ``with``."""

    def __init__(self, config: EngineConfig, on_progress: OnProgress = lambda ratio: True) -> None:
        """Loads the model.

        Raises:
            EngineFailed: that can't be done.
            EngineOutOfMemory: there is no memory for the model, or for such a context.
            LoadCancelled: ``on_progress`` says so.
        """
        library.start()
        self._n_threads = config.n_threads
        self._model = load_model(config, on_progress)
        on_cpu = config.n_gpu_layers == 0 or not library.has_gpu()
        n_slots = config.max_running + N_RETAINED
        self._lone_slot = n_slots
        with ExitStack() as stack:
            stack.push(self._model)
            self._adapters = {adapter.id: Adapter(self._model, adapter) for adapter in config.adapters}
            threads = stack.enter_context(
                ComputeThreads(config.n_threads, config.n_threads_batch, config.poll, may_adapt=on_cpu)
            )
            self._contexts = [
                stack.enter_context(self._new_context(config, threads, n_slots=n_slots, on_cpu=on_cpu))
                for _ in range(config.n_contexts)
            ]
            # That of the latest step.
            self._context = self._contexts[0]
            if len(self._contexts) > 1:
                self._reserve_for_adapters()
            self.drafter = (
                stack.enter_context(
                    DraftModel(
                        config,
                        self._model,
                        threads,
                        n_ctx=self._context.n_ctx,
                        n_slots=n_slots,
                        on_cpu=on_cpu,
                        on_progress=lambda ratio: on_progress(1.0),
                    )
                )
                if config.draft_model_path
                else None
            )
            self._resources = stack.pop_all()
        self._samplers: dict[Sequence, Sampler] = {}
        self._constraints: dict[Sequence, Constraint] = {}
        is_f16 = (config.type_k, config.type_v) == ("f16", "f16")
        can_be_exact = on_cpu and is_f16 and config.max_running <= EXACT_BATCH
        self.info = BackendInfo(
            n_ctx=self._contexts[0].n_ctx - 1,  # one cell for the lone slot
            n_ctx_train=self._model.n_ctx_train,
            n_vocab=self._model.n_vocab,
            n_seq_max=n_slots,
            n_outputs=self._context.n_outputs_max,
            can_cut_prefix=self._model.can_cut_memory,
            exact_batch=EXACT_BATCH if can_be_exact else None,
            # Kernels of recurrent layers round by how a prompt is cut into steps.
            exact_reuse=can_be_exact and self._model.can_cut_memory and set(config.tensor_types) <= EXACT_TYPES,
            build=engine_build(),
            device=library.device(),
            n_lanes=len(self._contexts),
            adapters=frozenset(self._adapters),
            buffers=tuple(
                itertools.chain(
                    self._model.buffers,
                    *(adapter.buffers for adapter in self._adapters.values()),
                    *(context.buffers for context in self._contexts),
                    self.drafter.buffers if self.drafter is not None else (),
                )
            ),
            anonymous_bytes=anonymous_bytes(),
            n_gpu_layers=self._model.n_gpu_layers,
            has_gpu=library.has_gpu(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sampler in self._samplers.values():
            sampler.close()
        self._resources.__exit__(kind, error, trace)

    def _new_context(self, config: EngineConfig, threads: ComputeThreads, *, n_slots: int, on_cpu: bool) -> Context:
        return Context(
            self._model,
            n_ctx=config.n_ctx or min(self._model.n_ctx_train, DEFAULT_N_CTX),
            n_batch=config.n_batch,
            n_seq_max=n_slots + 1,
            n_outputs_max=n_slots + 1,  # one for each sequence
            threads=threads,
            on_cpu=on_cpu,
            type_k=config.type_k,
            type_v=config.type_v,
        )

    def _reserve_for_adapters(self) -> None:
        """Has the contexts of adapters take what memory they will: most with the largest adapter."""
        largest = max(self._adapters.values(), key=lambda adapter: adapter.file_bytes)
        for context in self._contexts[1:]:
            largest.put_on(context.handle)
            context.reserve()

    def tokenize(self, parts: tuple[PromptPart, ...]) -> list[int]:
        return self._model.tokenize(parts)

    def piece(self, token: int) -> bytes:
        return self._model.token_bytes(token)

    def token_name(self, token: int) -> bytes:
        return self._model.token_name(token)

    def is_eog(self, token: int) -> bool:
        return self._model.is_eog(token)

    def grammar_vocabulary(self) -> LLTokenizer:
        return grammar_vocabulary(self._model)

    def open_sampler(self, sequence: Sequence, params: SamplingParams, constraint: Constraint | None) -> None:
        prompt = sequence.tokens[: sequence.n_prompt]
        n_ctx = self._contexts[0].n_ctx
        self._samplers[sequence] = Sampler(self._model, params, prompt, index=sequence.index, n_ctx=n_ctx)
        if constraint is not None:
            self._constraints[sequence] = constraint

    def close_sampler(self, sequence: Sequence) -> None:
        self._samplers.pop(sequence).close()
        self._constraints.pop(sequence, None)

    def bind(self, lane: int, adapter: str) -> None:
        self._adapters[adapter].put_on(self._contexts[lane].handle)

    def run(self, plan: StepPlan, lane: int) -> list[Sampled]:
        self._context = self._contexts[lane]
        self._context.apply_memory(plan.memory)
        if not plan.chunks:
            return []
        # With several threads, llama.cpp cuts the cells of a lone token's attention among them.
        needs_company = plan.exact and self._n_threads > 1
        outputs = self._context.decode(plan.chunks, lone_slot=self._lone_slot if needs_company else None)
        wanting = [chunk for chunk in plan.chunks if chunk.wants_logits]
        return self._sample_all(wanting, outputs) if outputs else []

    def apply_memory(self, operations: tuple[Operation, ...], lane: int) -> None:
        self._contexts[lane].apply_memory(operations)

    def state_bytes(self, slot: int, lane: int) -> int:
        return self._contexts[lane].state_bytes(slot)

    def copy_state(self, slot: int, lane: int, target: memoryview) -> bool:
        return self._contexts[lane].copy_state(slot, target)

    def restore_state(self, slot: int, lane: int, state: memoryview, n_tokens: int) -> bool:
        return self._contexts[lane].restore_state(slot, state, n_tokens)

    def _sample_all(self, chunks: list[Chunk], outputs: list[int]) -> list[Sampled]:
        """``outputs``: the indices in the batch of what the chunks want, in its order."""
        logits = self._context.logits(len(outputs))
        best = logits.argmax(axis=1).tolist()
        if len(outputs) == len(chunks):
            return list(map(self._sample, [chunk.sequence for chunk in chunks], outputs, logits, best))
        rows = iter(zip(outputs, logits, best, strict=True))
        return [self._sample_draft(chunk, list(islice(rows, 1 + len(chunk.draft)))) for chunk in chunks]

    def _sample_draft(self, chunk: Chunk, rows: list[tuple[int, Logits, int]]) -> Sampled:
        """What follows a chunk's last token, and as long as that is as guessed, each guess."""
        first, *following = self._sample_while_right(chunk, rows)
        return replace(first, following=tuple(following)) if following else first

    def _sample_while_right(self, chunk: Chunk, rows: list[tuple[int, Logits, int]]) -> Iterator[Sampled]:
        guesses = (*chunk.draft, None)
        for guess, row in zip(guesses, rows, strict=True):
            sampled = self._sample(chunk.sequence, *row)
            yield sampled
            if sampled.error is not None or sampled.token != guess or self._model.is_eog(sampled.token):
                return

    def _sample(self, sequence: Sequence, output: int, logits: Logits, best: int) -> Sampled:
        """``output`` is the sequence's index in the batch; ``best`` has the greatest of its ``logits``."""
        if not isfinite(logits[best]):  # damaged weights decode without an error; argmax finds a NaN first
            return Sampled(0, error="the model computed no numbers: its file is damaged; fetch it again")
        sampler = self._samplers[sequence]
        try:
            if (constraint := self._constraints.get(sequence)) is not None:
                return self._sample_constrained(sequence, sampler, constraint, output, logits, best)
            token = sampler.sample(self._context, output, best)
        except EngineFailed as error:
            return Sampled(0, error=error.message)
        return Sampled(token, self._logprob(sequence, logits, token))

    def _sample_constrained(
        self, sequence: Sequence, sampler: Sampler, constraint: Constraint, output: int, logits: Logits, best: int
    ) -> Sampled:
        """Masks the ``logits`` in place, where llama.cpp's samplers find them."""
        raw = logits.copy() if sequence.top_logprobs is not None else logits
        if not (sampler.is_plain_greedy and constraint.allows(best)):
            mask_logits(logits, constraint.mask())
            best = int(logits.argmax())
            if not isfinite(logits[best]):
                raise EngineFailed("the grammar allows no token that this model has")
        token = sampler.sample(self._context, output, best)
        logprob = self._logprob(sequence, raw, token)
        if self._model.is_eog(token):
            return Sampled(token, logprob, is_complete=True)
        constraint.accept(token)
        # Not where each token's probability is wanted, or where results depend on how tokens are cut into steps.
        is_exact = self.info.exact_reuse and self._context is self._contexts[0]
        may_force = logprob is None and (is_exact or not sequence.exact)
        forced = constraint.accept_forced() if may_force else []
        for one in forced:
            sampler.accept(one)
        return Sampled(token, logprob, forced=tuple(forced), is_complete=constraint.is_complete)

    def _logprob(self, sequence: Sequence, logits: Logits, token: int) -> TokenLogprob | None:
        if sequence.top_logprobs is None:
            return None
        return token_logprob(self._model, logits, token, sequence.top_logprobs)


def anonymous_bytes() -> int:
    """What this process has in RAM that no file backs; 0 where the system doesn't say (only Linux does)."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    match = re.search(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0
