"""The engine of a model that embeds: texts in, vectors out, many in one step.

The same outside as ``appliance.engine.core``, and as little of it as this takes: nothing is kept between two steps, so
there are no slots and no books. A request with many inputs is computed in several steps, and others get in between.
Each :class:`Embed` ends with exactly one :class:`Embedded` or :class:`Failed`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from appliance.engine.backend import BackendInfo, BadBatch
from appliance.engine.counts import Counts
from appliance.engine.messages import (
    MAX_EMBEDDED,
    Accepted,
    Detokenize,
    Detokenized,
    Embed,
    Embedded,
    Event,
    Failed,
    Load,
    Progress,
    Submit,
    Tokenize,
    Tokenized,
)
from appliance.engine.order import FairOrder
from appliance.engine.pace import ALONE_STEP_S, Pace
from appliance.errors import ApplianceError, ContextLengthExceeded, EngineFailed, InvalidRequest

# A text of more bytes a token than this isn't tokenized to find out that it is too long: that would stop all others.
# Some vocabularies make one token of a word of any length, so the longest token says nothing.
MAX_TOKEN_BYTES = 256


class Embedder(Protocol):
    @property
    def info(self) -> BackendInfo:
        """``n_ctx`` is the longest input, in tokens."""

    @property
    def n_embd(self) -> int:
        """Numbers in a vector."""

    def tokenize(self, text: str) -> list[int]:
        """The text's tokens with those that the vocabulary wants around it; no text becomes a control token."""

    def token_name(self, token: int) -> bytes:
        """The token's text, control tokens written out."""

    def embed(self, inputs: Sequence[list[int]]) -> list[bytes]:
        """The vector of each input, of length one, as little-endian float32; empty if the model computed no numbers.

        Raises:
            BadBatch, BackendFatal
        """


@dataclass(slots=True, eq=False)
class OpenRequest:
    """``vectors`` are those of its first inputs, as far as they are computed."""

    request_id: str
    inputs: list[list[int]]
    key: str
    weight: float
    is_batch: bool
    submitted_at: float
    n_tokens: int
    n_computed: int = 0
    vectors: list[bytes] = field(default_factory=list)
    started_at: float | None = None

    @property
    def n_pending(self) -> int:
        return self.n_tokens - self.n_computed


class EmbeddingCore:
    def __init__(
        self,
        embedder: Embedder,
        *,
        n_batch: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``n_batch``: most tokens of a step, unless a single input has more."""
        self._embedder = embedder
        self._pace = Pace(n_batch=n_batch, step_s=ALONE_STEP_S)
        self._n_ctx = min(embedder.info.n_ctx, embedder.info.n_ctx_train)
        self._now = now
        self._requests: dict[str, OpenRequest] = {}
        self._order: FairOrder[OpenRequest] = FairOrder(max_running=1)
        self._counts = Counts()

    @property
    def is_idle(self) -> bool:
        return not self._requests

    @property
    def only_decodes(self) -> bool:
        return False

    @property
    def timeout_s(self) -> float | None:
        return None

    @property
    def load(self) -> Load:
        n_running = sum(request.started_at is not None for request in self._requests.values())
        return Load(
            n_running=n_running,
            n_waiting=len(self._requests) - n_running,
            n_steps=self._counts.n_steps,
            n_prompt_computed=self._counts.n_prompt_computed,
            compute_s=self._counts.compute_s,
            longest_step_s=self._counts.longest_step_s,
        )

    def submit(self, message: Submit | Embed) -> list[Event]:
        """Queues a request, or refuses it."""
        try:
            if isinstance(message, Submit):
                raise InvalidRequest("this model embeds texts and writes none; use /v1/embeddings", param="model")
            request = self._admit(message)
        except ApplianceError as error:
            return [_failed(message.request_id, error)]
        self._requests[request.request_id] = request
        self._order.add(request)
        return [Accepted(request.request_id, request.n_tokens)]

    def close(self) -> None:
        """Nothing of it looks into the embedder on another thread."""

    def prepare_grammars(self) -> None:
        """No vector follows one."""

    def submit_ready(self) -> list[Event]:
        """Nothing is ever kept back."""
        return []

    def save_due(self) -> None:
        """Nothing is kept on disk."""

    def save_all(self, timeout_s: float) -> None:
        """Nothing is kept on disk."""

    def tokenize(self, message: Tokenize) -> list[Event]:
        """As the text would be embedded."""
        try:
            tokens = self._tokenize("".join(part.text for part in message.parts), "the prompt", "prompt")
            return [Tokenized(message.request_id, tuple(tokens))]
        except ApplianceError as error:
            return [_failed(message.request_id, error)]

    def detokenize(self, message: Detokenize) -> list[Event]:
        try:
            self._check_tokens(message.tokens, "", "tokens")
        except ApplianceError as error:
            return [_failed(message.request_id, error)]
        text = b"".join(map(self._embedder.token_name, message.tokens)).decode("utf-8", "replace")
        return [Detokenized(message.request_id, text)]

    def abort(self, request_id: str) -> list[Event]:
        """Ends a request now. One that has ended already is left alone: its last event crossed the abort."""
        request = self._requests.get(request_id)
        if request is None:
            return []
        self._forget(request)
        return [Embedded(request_id, b"", self._embedder.n_embd, ())]

    def abort_all(self, code: str, message: str) -> list[Event]:
        """Fails every open request."""
        return [self._fail(request, code, message) for request in list(self._requests.values())]

    def step(self) -> list[Event]:
        """Embeds as many inputs as a step takes; the events it led to."""
        batch = self._next_batch()
        started_at = self._now()
        for request, _ in batch:
            if request.started_at is None:
                request.started_at = started_at
        requests = list(dict.fromkeys(request for request, _ in batch))
        try:
            vectors = self._embedder.embed([tokens for _, tokens in batch])
        except BadBatch as error:
            reason = f"the backend refused a batch: {error}"
            return [self._fail(request, EngineFailed.code or "", reason) for request in requests]
        ended_at = self._now()
        n_tokens = sum(len(tokens) for _, tokens in batch)
        self._pace.observe(n_prompt=n_tokens, n_decoding=0, step_s=ended_at - started_at)
        self._counts.saw_step(n_tokens, ended_at - started_at)
        self._order.step()
        for (request, tokens), vector in zip(batch, vectors, strict=True):
            request.vectors.append(vector)
            request.n_computed += len(tokens)
            self._order.charge(request, len(tokens))
        return [self._advanced(request, ended_at) for request in requests]

    def _next_batch(self) -> list[tuple[OpenRequest, list[int]]]:
        """Inputs that are computed next: by class and key, then the request that least was computed of."""
        batch: list[tuple[OpenRequest, list[int]]] = []
        room = self._pace.limits().alone
        least_first = sorted(self._requests.values(), key=lambda request: request.n_computed)
        for request in self._order.by_urgency(least_first):
            for tokens in request.inputs[len(request.vectors) :]:
                if batch and (len(tokens) > room or len(batch) == MAX_EMBEDDED):
                    break
                batch.append((request, tokens))
                room -= len(tokens)
        return batch

    def _advanced(self, request: OpenRequest, at: float) -> Event:
        if not all(request.vectors):
            return self._fail(
                request,
                EngineFailed.code or "",
                "the model computed no numbers: its file is damaged; fetch it again",
            )
        if len(request.vectors) < len(request.inputs):
            return Progress(request.request_id, request.n_computed, request.n_tokens)
        self._forget(request)
        started_at = at if request.started_at is None else request.started_at
        return Embedded(
            request.request_id,
            b"".join(request.vectors),
            self._embedder.n_embd,
            tuple(map(len, request.inputs)),
            queue_s=started_at - request.submitted_at,
            compute_s=at - started_at,
        )

    def _admit(self, message: Embed) -> OpenRequest:
        inputs = []
        for index, given in enumerate(message.inputs):
            name = f"input {index}" if len(message.inputs) > 1 else "the input"
            tokens = self._tokenize(given, name, "input") if isinstance(given, str) else list(given)
            if not tokens:
                raise InvalidRequest(f"{name} is empty", param="input")
            self._check_tokens(tokens, f"{name}: ", "input")
            if len(tokens) > self._n_ctx:
                raise self._too_long(f"{name} has {len(tokens)} tokens", "input")
            inputs.append(tokens)
        if not inputs:
            raise InvalidRequest("there is no input", param="input")
        return OpenRequest(
            message.request_id,
            inputs,
            key=message.key,
            weight=message.weight,
            is_batch=message.is_batch,
            submitted_at=self._now(),
            n_tokens=sum(map(len, inputs)),
        )

    def _tokenize(self, text: str, name: str, param: str) -> list[int]:
        n_bytes = len(text.encode())
        if n_bytes > self._n_ctx * MAX_TOKEN_BYTES:
            raise self._too_long(f"{name} has {n_bytes} bytes", param)
        return self._embedder.tokenize(text)

    def _too_long(self, what: str, param: str) -> ContextLengthExceeded:
        return ContextLengthExceeded(
            f"{what}; this model embeds texts of at most {self._n_ctx} tokens. Split or shorten it", param=param
        )

    def _check_tokens(self, tokens: Iterable[int], where: str, param: str) -> None:
        n_vocab = self._embedder.info.n_vocab
        for token in tokens:
            if not 0 <= token < n_vocab:
                raise InvalidRequest(f"{where}token {token} is not in the vocabulary (0 to {n_vocab - 1})", param=param)

    def _fail(self, request: OpenRequest, code: str, message: str) -> Event:
        self._forget(request)
        return Failed(request.request_id, code, message)

    def _forget(self, request: OpenRequest) -> None:
        del self._requests[request.request_id]
        self._order.remove(request)


def _failed(request_id: str, error: ApplianceError) -> Failed:
    return Failed(request_id, error.code or "", error.message, error.param)
