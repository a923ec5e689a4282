"""What the engine needs of a backend. ``appliance.engine.llama`` is the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from llguidance import LLTokenizer

from appliance.engine.grammar import Constraint
from appliance.engine.messages import Buffer, PromptPart, TokenLogprob
from appliance.engine.params import SamplingParams
from appliance.engine.sequence import Sequence
from appliance.engine.slots import Operation
from appliance.engine.step import StepPlan

# Told how far loading is, from 0 to 1, as often as the backend likes; False: the model is no longer wanted.
OnProgress = Callable[[float], bool]


class LoadCancelled(Exception):
    """The model was not loaded, since it is no longer wanted."""


class KVCacheFull(Exception):
    """No room for this batch; nothing was computed. Free cells and plan again."""


class BadBatch(Exception):
    """The batch was refused; nothing was computed. Its requests can't go on."""


class BackendFatal(Exception):
    """The KV cache is in an unknown state: the process must end."""


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """``n_lanes`` contexts of ``n_ctx`` cells and ``n_seq_max`` slots each.

    ``can_cut_prefix``: a slot's memory can be cut at any position, and a part of it copied; if not, a slot can only go
    on, be copied as a whole, or be freed.
    ``exact_batch``: with steps of at most so many tokens, the same request computed in the same steps gives the
    same logits, wherever its cells lie; None if the backend can't promise it. ``exact_reuse``: then its logits don't
    depend either on what else is in its steps, or on how a reused prefix was cut into steps; never so with adapters.
    Lane 0 computes the model alone; the others one of its ``adapters``, by their ids, as they are told.
    ``n_outputs``: of so many tokens of a step the logits can be had. ``buffers``, ``anonymous_bytes``, ``n_gpu_layers``
    and ``has_gpu`` as in :class:`Ready`.
    """

    n_ctx: int
    n_ctx_train: int
    n_vocab: int
    n_seq_max: int
    can_cut_prefix: bool
    exact_batch: int | None
    exact_reuse: bool
    build: str
    device: str
    n_lanes: int = 1
    adapters: frozenset[str] = frozenset()
    n_outputs: int = 0
    buffers: tuple[Buffer, ...] = ()
    anonymous_bytes: int = 0
    n_gpu_layers: int = 0
    has_gpu: bool = False


@dataclass(frozen=True, slots=True)
class Sampled:
    """The token that was chosen; ``error`` says why there is none.

    ``forced`` are the tokens that a grammar wants behind it, ``is_complete`` says that none may follow those.
    ``following`` are those sampled behind it, as long as each but the last agreed with the chunk's draft.
    """

    token: int
    logprob: TokenLogprob | None = None
    error: str | None = None
    forced: tuple[int, ...] = ()
    is_complete: bool = False
    following: tuple[Sampled, ...] = ()

    @property
    def more(self) -> list[tuple[int, TokenLogprob | None]]:
        """The tokens behind the one that was chosen, and their log-probabilities where those were wanted."""
        return [(token, None) for token in self.forced] + [(one.token, one.logprob) for one in self.following]


class Drafter(Protocol):
    """A second, small model that guesses how sequences go on. It keeps what it has computed of each."""

    def n_behind(self, sequence: Sequence) -> int:
        """How many tokens of a sequence it has still to compute before it can guess."""

    def catch_up(self, sequences: Iterable[Sequence], n_tokens: int) -> int:
        """Computes what it lacks of them, at most ``n_tokens``; how many that were."""

    def draft(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """As many guesses of each one's next tokens as are wanted, or fewer; of those that it lacks too much of, none.

        Sequences without guesses are left out.
        """

    def forget(self, sequence: Sequence) -> None:
        """Frees what it has computed of a sequence, if it has."""


class Backend(Protocol):
    @property
    def info(self) -> BackendInfo: ...

    @property
    def drafter(self) -> Drafter | None:
        """None: the model was loaded without a draft model."""

    def tokenize(self, parts: tuple[PromptPart, ...]) -> list[int]:
        """The prompt's tokens, the vocabulary's beginning-of-sequence token included where it wants one."""

    def piece(self, token: int) -> bytes:
        """The token's text; empty for control tokens."""

    def token_name(self, token: int) -> bytes:
        """As :meth:`piece`, but control tokens are written out."""

    def is_eog(self, token: int) -> bool:
        """Whether the token ends a generation."""

    def grammar_vocabulary(self) -> LLTokenizer:
        """llguidance's table of the vocabulary, in which only control tokens are special.

        May be called on another thread.
        """

    def open_sampler(self, sequence: Sequence, params: SamplingParams, constraint: Constraint | None) -> None:
        """Prepares sampling for a sequence, whose answer follows ``constraint`` if there is one.

        Raises:
            InvalidRequest: a parameter that the model's vocabulary can't honour.
        """

    def close_sampler(self, sequence: Sequence) -> None: ...

    def bind(self, lane: int, adapter: str) -> None:
        """Has a lane compute with another adapter; none of its slots may be in use then."""

    def run(self, plan: StepPlan, lane: int) -> list[Sampled]:
        """Computes a step in the context of a lane; one result for each chunk that wants logits, in order.

        Raises:
            KVCacheFull, BadBatch, BackendFatal
        """

    def apply_memory(self, operations: tuple[Operation, ...], lane: int) -> None:
        """Copies and frees slots of a lane, as :meth:`run` does before its batch."""

    def state_bytes(self, slot: int, lane: int) -> int:
        """How much memory :meth:`copy_state` fills."""

    def copy_state(self, slot: int, lane: int, target: memoryview) -> bool:
        """Copies what the KV cache holds of a slot to ``target``, which is just as large; false if it can't be."""

    def restore_state(self, slot: int, lane: int, state: memoryview, n_tokens: int) -> bool:
        """Fills a free slot with the first ``n_tokens`` tokens of a copied state; false if the state doesn't suit."""
