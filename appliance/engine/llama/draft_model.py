"""A draft model: a second, small model that guesses how sequences go on, greedily."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from appliance import logs
from appliance.engine.backend import BadBatch, KVCacheFull, OnProgress
from appliance.engine.llama.context import Context, Logits
from appliance.engine.llama.model import Model
from appliance.engine.llama.threads import ComputeThreads
from appliance.engine.llama.vocabulary import difference
from appliance.engine.messages import Buffer, EngineConfig
from appliance.engine.sequence import Sequence
from appliance.errors import EngineFailed

log = logging.getLogger(__name__)

# More than these are not computed on the way to a guess, whose cost is measured: as many as lie behind right guesses.
_MAX_BEHIND = 2


@dataclass(slots=True)
class _Held:
    """What is computed of a sequence: its first ``n_computed`` tokens, and ``guesses`` behind them."""

    slot: int
    n_computed: int = 0
    guesses: list[int] = field(default_factory=list)

    @property
    def n_cells(self) -> int:
        return self.n_computed + len(self.guesses)


class DraftModel:
    """Owns a model and its context; use with ``with``. It lies on the devices of the model that it guesses for."""

    def __init__(
        self,
        config: EngineConfig,
        model: Model,
        threads: ComputeThreads,
        *,
        n_ctx: int,
        n_slots: int,
        on_cpu: bool,
        on_progress: OnProgress = lambda ratio: True,
    ) -> None:
        """Raises EngineFailed if it can't be loaded or can't guess for ``model``, and as :class:`Model` does."""
        path = config.draft_model_path
        if not model.can_cut_memory:
            raise EngineFailed(
                f"draft_model: guesses can't be dropped from the memory of {config.model_path}, which is recurrent or "
                f"has a sliding window; leave its draft model {path} out"
            )
        self._model = Model(
            path,
            n_gpu_layers=config.n_gpu_layers,
            n_cpu_moe=config.n_cpu_moe,
            tensor_split=config.tensor_split,
            on_progress=on_progress,
        )
        with ExitStack() as stack:
            stack.push(self._model)
            if not self._model.can_cut_memory:
                raise EngineFailed(
                    f"draft_model: {path} can't guess for {config.model_path}: wrong guesses can't be dropped from its "
                    "memory, which is recurrent or has a sliding window; choose another"
                )
            if (found := difference(model, self._model)) is not None:
                raise EngineFailed(
                    f"draft_model: {path} has another vocabulary than {config.model_path}: {found}; choose a smaller "
                    "model of the same family"
                )
            self._context = stack.enter_context(
                Context(
                    self._model,
                    n_ctx=n_ctx,
                    n_batch=config.n_batch,
                    n_seq_max=n_slots + 1,
                    n_outputs_max=n_slots + 1,
                    threads=threads,
                    on_cpu=on_cpu,
                    type_k=config.type_k,
                    type_v=config.type_v,
                )
            )
            self._resources = stack.pop_all()
        self._n_batch = config.n_batch
        # Tokens that both models have.
        self._n_vocab = min(model.n_vocab, self._model.n_vocab)
        self._free = list(reversed(range(n_slots)))
        self._held: dict[Sequence, _Held] = {}
        # For which nothing can be guessed: they have tokens that this model hasn't.
        self._foreign: set[Sequence] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.__exit__(kind, error, trace)

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return self._model.buffers + self._context.buffers

    @property
    def n_free_slots(self) -> int:
        return len(self._free)

    def n_behind(self, sequence: Sequence) -> int:
        held = self._held.get(sequence)
        return len(sequence.tokens) - (held.n_cells if held is not None else 0)

    def catch_up(self, sequences: Iterable[Sequence], n_tokens: int) -> int:
        n_tokens = min(n_tokens, self._n_batch)
        held_of = [(sequence, held) for sequence in sequences if (held := self._hold(sequence)) is not None]
        if self._n_free_cells < 0:
            return 0
        parts = []
        for sequence, held in held_of:
            n_behind = len(sequence.tokens) - held.n_computed
            # The last one is computed where it is guessed what follows.
            n_part = min(n_behind - 1, n_tokens)
            if n_behind > _MAX_BEHIND and n_part > 0:
                parts.append((held.slot, held.n_computed, sequence.tokens[held.n_computed : held.n_computed + n_part]))
                held.n_computed += n_part
                n_tokens -= n_part
        if not parts or self._go_on(parts) is None:
            return 0
        return sum(len(tokens) for _, _, tokens in parts)

    def draft(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        ready = self._ready(wanted)
        drafts: dict[Sequence, list[int]] = {sequence: [] for sequence in ready}
        while ready:
            parts = [(self._held[sequence].slot, self._held[sequence].n_cells, new) for sequence, new in ready.items()]
            logits = self._go_on(parts)
            if logits is None:
                return {}
            tokens = logits[:, : self._n_vocab].argmax(axis=1).tolist()
            for sequence, token in zip(list(ready), tokens, strict=True):
                held, draft = self._held[sequence], drafts[sequence]
                if draft:
                    held.guesses.append(draft[-1])
                else:
                    held.n_computed = len(sequence.tokens)
                draft.append(token)
                ready[sequence] = [token]
                if len(draft) == wanted[sequence] or self._model.is_eog(token):
                    del ready[sequence]
        return drafts

    def forget(self, sequence: Sequence) -> None:
        self._foreign.discard(sequence)
        held = self._held.pop(sequence, None)
        if held is not None:
            self._context.release(held.slot)
            self._free.append(held.slot)

    def _ready(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """Those that can be guessed for now, and the tokens of each that are still to be computed."""
        ready = {}
        n_tokens, n_cells = self._n_batch, self._n_free_cells
        for sequence, n_wanted in wanted.items():
            held = self._hold(sequence)
            if held is None:
                continue
            behind = sequence.tokens[held.n_computed :]
            # The last guess isn't computed.
            if len(behind) <= min(_MAX_BEHIND, n_tokens) and n_wanted - 1 <= n_cells:
                ready[sequence] = behind
                n_tokens -= len(behind)
                n_cells -= n_wanted - 1
        return ready

    def _hold(self, sequence: Sequence) -> _Held | None:
        """What is computed of a sequence, without what turned out wrong; None: it gets no guesses."""
        if sequence in self._foreign:
            return None
        held = self._held.get(sequence)
        if held is None:
            if not self._free or len(sequence.tokens) > self._n_free_cells:
                return None
            held = self._held[sequence] = _Held(self._free.pop())
        new = sequence.tokens[held.n_computed :]
        if new and max(new) >= self._n_vocab:
            self.forget(sequence)
            self._foreign.add(sequence)
            return None
        n_right = 0
        while n_right < min(len(new), len(held.guesses)) and new[n_right] == held.guesses[n_right]:
            n_right += 1
        # What follows the newest token is known only once that is computed, be it for a second time.
        n_kept = min(held.n_computed + n_right, len(sequence.tokens) - 1)
        if n_kept < held.n_cells:
            self._context.cut(held.slot, n_kept)
        held.n_computed, held.guesses = n_kept, []
        return held

    @property
    def _n_free_cells(self) -> int:
        """Beside all tokens that are known of the sequences that are held; below 0, not even those fit."""
        n_used = (max(len(sequence.tokens), held.n_cells) for sequence, held in self._held.items())
        return self._context.n_ctx - sum(n_used)

    def _go_on(self, parts: list[tuple[int, int, list[int]]]) -> Logits | None:
        """As :meth:`Context.go_on`; None if that can't be: then nothing is held any more."""
        try:
            return self._context.go_on(parts)
        except (KVCacheFull, BadBatch) as error:
            log.warning(logs.event("draft_failed", reason=error))
            for sequence in list(self._held):
                self.forget(sequence)
            return None
