"""A backend whose model repeats the alphabet: the next token is the letter behind the last one, ``z`` ends.

It keeps the books of a KV cache and refuses what a real one would, so that the engine's loop can be tested without
a model. Tokens are bytes; token 0 ends a generation.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from appliance.engine.backend import BackendInfo, Sampled
from appliance.engine.messages import EngineConfig, PromptPart, TokenLogprob
from appliance.engine.params import SamplingParams
from appliance.engine.scheduler import StepPlan
from appliance.engine.sequence import Sequence
from appliance.engine.slots import Copy, Release
from appliance.errors import InvalidRequest

END = 0


class FakeBackend:
    def __init__(self, *, n_ctx: int = 256, n_ctx_train: int = 256, n_seq_max: int = 8, step_s: float = 0.0) -> None:
        """``step_s``: how long a step computes."""
        self._step_s = step_s
        self.info = BackendInfo(
            n_ctx=n_ctx,
            n_ctx_train=n_ctx_train,
            n_vocab=256,
            n_seq_max=n_seq_max,
            can_share_prefix=True,
            exact_batch=None,
            exact_reuse=False,
            build="fake",
            device="fake",
        )
        self.samplers: set[Sequence] = set()
        self.slots: dict[int, list[int]] = {}
        self.errors: list[Exception] = []  # raised by the next steps, in order
        self.steps: list[StepPlan] = []

    def tokenize(self, parts: tuple[PromptPart, ...]) -> list[int]:
        return list("".join(part.text for part in parts).encode())

    def piece(self, token: int) -> bytes:
        return bytes([token])

    def token_name(self, token: int) -> bytes:
        return b"<|end|>" if token == END else bytes([token])

    def is_eog(self, token: int) -> bool:
        return token == END

    def open_sampler(self, sequence: Sequence, params: SamplingParams) -> None:
        if params.logit_bias:
            raise InvalidRequest("logit_bias: the fake has no logits")
        self.samplers.add(sequence)

    def close_sampler(self, sequence: Sequence) -> None:
        self.samplers.remove(sequence)

    def run(self, plan: StepPlan) -> list[Sampled]:
        self.steps.append(plan)
        if self._step_s:
            time.sleep(self._step_s)
        for operation in plan.memory:
            match operation:
                case Copy(source, target, n_tokens):
                    self.slots[target] = self.slots[source][:n_tokens]
                case Release(slot):
                    self.slots.pop(slot, None)
        if self.errors:
            raise self.errors.pop(0)
        results = []
        for chunk in plan.chunks:
            held = self.slots.setdefault(chunk.slot, [])
            assert len(held) == chunk.start, "a chunk must go on where its slot ends"
            held += chunk.sequence.tokens[chunk.start : chunk.start + chunk.n_tokens]
            if chunk.wants_logits:
                results.append(self._next(held, with_logprob=chunk.sequence.top_logprobs is not None))
        return results

    def _next(self, tokens: list[int], *, with_logprob: bool) -> Sampled:
        last = tokens[-1]
        if last == ord("!"):
            return Sampled(0, error="the fake model is damaged")
        token = END if last == ord("z") else last + 1 if ord("a") <= last < ord("z") else ord("a")
        return Sampled(token, TokenLogprob(bytes([token]), -0.5) if with_logprob else None)


@contextlib.contextmanager
def load_fake(config: EngineConfig) -> Iterator[FakeBackend]:
    """As an engine process loads its model. ``n_ctx`` 0 means 256."""
    n_ctx = config.n_ctx or 256
    # As long as a fast model takes: no test waits for it, but without it a client could not keep up.
    yield FakeBackend(n_ctx=n_ctx, n_ctx_train=n_ctx, n_seq_max=config.max_running + 2, step_s=0.001)
