"""A backend whose model repeats the alphabet: the next token is the letter behind the last one, ``z`` ends.

With an adapter it answers in capitals.

It keeps the books of a KV cache and refuses what a real one would, so that the engine's loop can be tested without
a model. Tokens are bytes; token 0 ends a generation.

An engine process takes orders from its configuration: ``model_path`` is ``fake:`` and the fields of :class:`FakeModel`
that are not as usual, as JSON, such as ``fake:{"oom_above_layers": 10, "n_layers": 24}``; :func:`fake_path` writes it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from llguidance import LLTokenizer

from appliance.engine.backend import BackendInfo, Drafter, LoadCancelled, OnProgress, Sampled
from appliance.engine.grammar import Constraint
from appliance.engine.messages import Buffer, EngineConfig, PromptPart, TokenLogprob
from appliance.engine.params import SamplingParams
from appliance.engine.sequence import Sequence
from appliance.engine.slots import Copy, Cut, Operation, Release
from appliance.engine.step import Chunk, StepPlan
from appliance.errors import EngineFailed, EngineOutOfMemory, InvalidRequest

END = 0
# Begins the copy of what a slot holds; behind it is a byte for each token.
STATE_MAGIC = b"fake state "
PREFIX = "fake:"
_LOOK_S = 0.005


class FakeModel(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How a fake engine process behaves.

    Loading: it writes ``say`` to its stderr, ``say_times`` times; takes ``load_s``, and then as long as the file
    ``load_until`` is not there, saying how far it is and giving up when it is no longer wanted. Then, in this order, it
    ends by SIGABRT with ``crash_at_load``, fails with the words of ``fail``, is out of memory with more layers on the
    GPU than ``oom_above_layers`` (-1 means all ``n_layers``) or a context above ``oom_above_ctx``.

    Serving: each step takes ``step_s``. After ``crash_after`` steps the next one ends the process by SIGABRT, after
    ``hang_after`` steps the next one never ends. Steps are counted from 0 in each process.

    All that goes wrong does so only as long as the file ``healed_by`` is not there, if one is named.
    What it reports: ``buffers`` as [device, kind, n_bytes], ``anonymous_bytes``, ``has_gpu``, ``n_ctx_train`` (0: as
    the context); as layers on the GPU those that it was given.
    """

    say: str = ""
    say_times: int = 1
    load_s: float = 0.0
    load_until: str = ""
    crash_at_load: bool = False
    fail: str = ""
    oom_above_layers: int | None = None
    oom_above_ctx: int | None = None
    step_s: float = 0.001
    crash_after: int | None = None
    hang_after: int | None = None
    healed_by: str = ""
    n_layers: int = 10
    n_ctx_train: int = 0
    buffers: tuple[Buffer, ...] = ()
    anonymous_bytes: int = 0
    has_gpu: bool = False

    @property
    def is_ill(self) -> bool:
        return not (self.healed_by and Path(self.healed_by).exists())


def fake_path(**fields: Any) -> str:
    """A ``model_path`` with these fields of :class:`FakeModel`."""
    return PREFIX + msgspec.json.encode(FakeModel(**fields)).decode()


class _Vocabulary:
    """What llguidance's ``LLTokenizer`` wants to know."""

    is_tokenizer_wrapper = True
    eos_token_id = END
    bos_token_id = None
    special_token_ids = (END,)
    tokens = (b"<|end|>", *(bytes([byte]) for byte in range(1, 256)))

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


class FakeBackend:
    def __init__(
        self,
        *,
        n_ctx: int = 256,
        n_ctx_train: int = 256,
        n_seq_max: int = 8,
        n_gpu_layers: int = 0,
        can_cut_prefix: bool = True,
        n_lanes: int = 1,
        adapters: tuple[str, ...] = (),
        model: FakeModel | None = None,
    ) -> None:
        """Without ``model``, steps take no time."""
        self._model = model or FakeModel(step_s=0.0)
        self.info = BackendInfo(
            n_ctx=n_ctx,
            n_ctx_train=n_ctx_train,
            n_vocab=256,
            n_seq_max=n_seq_max,
            n_outputs=n_seq_max + 8,
            can_cut_prefix=can_cut_prefix,
            exact_batch=None,
            exact_reuse=False,
            build="fake",
            device="fake",
            n_lanes=n_lanes,
            adapters=frozenset(adapters),
            buffers=self._model.buffers,
            anonymous_bytes=self._model.anonymous_bytes,
            n_gpu_layers=n_gpu_layers,
            has_gpu=self._model.has_gpu,
        )
        self.drafter: Drafter | None = None
        self.samplers: dict[Sequence, Constraint | None] = {}
        self.slots: dict[tuple[int, int], list[int]] = {}  # by lane and slot
        self.bound = [""] * n_lanes
        self.errors: list[Exception] = []  # raised by the next steps, in order
        self.steps: list[StepPlan] = []
        self.n_copied = 0
        self.refuses_states = False
        self.step_lanes: list[int] = []

    def tokenize(self, parts: tuple[PromptPart, ...]) -> list[int]:
        return list("".join(part.text for part in parts).encode())

    def piece(self, token: int) -> bytes:
        return bytes([token])

    def token_name(self, token: int) -> bytes:
        return b"<|end|>" if token == END else bytes([token])

    def is_eog(self, token: int) -> bool:
        return token == END

    def grammar_vocabulary(self) -> LLTokenizer:
        """Each byte a token."""
        return LLTokenizer(_Vocabulary(), slices=[])

    def open_sampler(self, sequence: Sequence, params: SamplingParams, constraint: Constraint | None) -> None:
        if params.logit_bias:
            raise InvalidRequest("logit_bias: the fake has no logits")
        self.samplers[sequence] = constraint

    def close_sampler(self, sequence: Sequence) -> None:
        del self.samplers[sequence]

    def bind(self, lane: int, adapter: str) -> None:
        self.bound[lane] = adapter

    def apply_memory(self, operations: tuple[Operation, ...], lane: int = 0) -> None:
        for operation in operations:
            match operation:
                case Copy(source, target, n_tokens):
                    assert self.info.can_cut_prefix or len(self.slots[lane, source]) == n_tokens, "only whole slots"
                    self.slots[lane, target] = self.slots[lane, source][:n_tokens]
                case Cut(slot, n_tokens):
                    assert self.info.can_cut_prefix, "only whole slots"
                    del self.slots[lane, slot][n_tokens:]
                case Release(slot):
                    self.slots.pop((lane, slot), None)

    def state_bytes(self, slot: int, lane: int = 0) -> int:
        return len(STATE_MAGIC) + len(self.slots[lane, slot])

    def copy_state(self, slot: int, lane: int, target: memoryview) -> bool:
        target[:] = STATE_MAGIC + bytes(self.slots[lane, slot])
        self.n_copied += 1
        return True

    def restore_state(self, slot: int, lane: int, state: memoryview, n_tokens: int) -> bool:
        assert (lane, slot) not in self.slots, "a slot must be free to be filled"
        held = bytes(state)
        if not held.startswith(STATE_MAGIC) or self.refuses_states:
            return False
        self.slots[lane, slot] = list(held[len(STATE_MAGIC) :])[:n_tokens]
        return True

    def run(self, plan: StepPlan, lane: int = 0) -> list[Sampled]:
        self._go_wrong()
        self.steps.append(plan)
        self.step_lanes.append(lane)
        if self._model.step_s:
            time.sleep(self._model.step_s)
        self.apply_memory(plan.memory, lane)
        self._is_adapted = bool(self.bound[lane])
        if self.errors:
            raise self.errors.pop(0)
        results = []
        for chunk in plan.chunks:
            held = self.slots.setdefault((lane, chunk.slot), [])
            assert len(held) == chunk.start, "a chunk must go on where its slot ends"
            held += chunk.sequence.tokens[chunk.start : chunk.start + chunk.n_tokens]
            if chunk.wants_logits:
                constraint = self.samplers[chunk.sequence]
                with_logprob = chunk.sequence.top_logprobs is not None
                try:
                    first, *following = self._next_while_right(held, chunk, constraint, with_logprob=with_logprob)
                    results.append(replace(first, following=tuple(following)))
                except EngineFailed as error:
                    results.append(Sampled(0, error=error.message))
        return results

    def _next_while_right(
        self, held: list[int], chunk: Chunk, constraint: Constraint | None, *, with_logprob: bool
    ) -> Iterator[Sampled]:
        known = list(held)
        held += chunk.draft
        for guess in (*chunk.draft, None):
            sampled = self._next(known, constraint, with_logprob=with_logprob)
            yield sampled
            if sampled.token != guess or sampled.token == END:
                return
            known.append(guess)

    def _go_wrong(self) -> None:
        if len(self.steps) == self._model.crash_after and self._model.is_ill:
            _crash()
        if len(self.steps) == self._model.hang_after and self._model.is_ill:
            gateway = os.getppid()
            while os.getppid() == gateway:  # nothing is left behind by a test run that was killed
                time.sleep(_LOOK_S)

    def _next(self, tokens: list[int], constraint: Constraint | None, *, with_logprob: bool) -> Sampled:
        last = ord(chr(tokens[-1]).lower()) if self._is_adapted else tokens[-1]
        if last == ord("!"):
            return Sampled(0, error="the fake model is damaged")
        token = END if last == ord("z") else last + 1 if ord("a") <= last < ord("z") else ord("a")
        if self._is_adapted and token != END:
            token = ord(chr(token).upper())
        if constraint is None:
            return Sampled(token, TokenLogprob(bytes([token]), -0.5) if with_logprob else None)
        if not constraint.allows(token):
            mask = int.from_bytes(constraint.mask(), "little")
            # The next one that is allowed, the end last of all.
            token = next(t for t in [*range(token + 1, 256), *range(1, token + 1), END] if mask >> t & 1)
        if token == END:
            return Sampled(token, is_complete=True)
        constraint.accept(token)
        forced = () if with_logprob else tuple(constraint.accept_forced())
        return Sampled(
            token,
            TokenLogprob(bytes([token]), -0.5) if with_logprob else None,
            forced=forced,
            is_complete=constraint.is_complete,
        )


def load_fake(
    config: EngineConfig, on_progress: OnProgress = lambda ratio: True
) -> contextlib.AbstractContextManager[FakeBackend]:
    """As an engine process loads its model. ``n_ctx`` 0 means 256.

    A step takes as long as a fast model's: no test waits for it, but without it a client could not keep up.
    """
    orders = config.model_path.removeprefix(PREFIX) if config.model_path.startswith(PREFIX) else "{}"
    model = msgspec.json.decode(orders, type=FakeModel)
    n_ctx = config.n_ctx or 256
    n_gpu_layers = model.n_layers if config.n_gpu_layers < 0 else min(config.n_gpu_layers, model.n_layers)
    if model.say:
        sys.stderr.write((model.say + "\n") * model.say_times)
    _take_time(model, on_progress)
    if model.is_ill:
        _fail_to_load(model, n_ctx=n_ctx, n_gpu_layers=n_gpu_layers)
    backend = FakeBackend(
        n_ctx=n_ctx,
        n_ctx_train=model.n_ctx_train or n_ctx,
        n_seq_max=config.max_running + 2,
        n_gpu_layers=n_gpu_layers,
        n_lanes=config.n_contexts,
        adapters=tuple(adapter.id for adapter in config.adapters),
        model=model,
    )
    return contextlib.nullcontext(backend)


def _take_time(model: FakeModel, on_progress: OnProgress) -> None:
    begun_at = time.monotonic()
    while (took_s := time.monotonic() - begun_at) < model.load_s or (
        model.load_until and not Path(model.load_until).exists()
    ):
        if not on_progress(took_s / model.load_s if took_s < model.load_s else 0.99):
            raise LoadCancelled
        time.sleep(_LOOK_S)


def _fail_to_load(model: FakeModel, *, n_ctx: int, n_gpu_layers: int) -> None:
    if model.crash_at_load:
        _crash()
    if model.fail:
        raise EngineFailed(model.fail)
    if model.oom_above_layers is not None and n_gpu_layers > model.oom_above_layers:
        raise EngineOutOfMemory(f"no memory for {n_gpu_layers} layers on the GPU")
    if model.oom_above_ctx is not None and n_ctx > model.oom_above_ctx:
        raise EngineOutOfMemory(f"no memory for a context of {n_ctx} tokens")


def _crash() -> None:
    sys.stderr.write("fake.c:1: GGML_ASSERT(false) failed\n")
    sys.stderr.flush()
    os.abort()
