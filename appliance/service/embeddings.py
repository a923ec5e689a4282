"""Texts that are embedded: which model, what of them is stored already, and what an engine computes of the rest."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from appliance.cache.answer import Answer
from appliance.cache.key import embedding_key
from appliance.cache.store import Found, ResponseCache
from appliance.engine.messages import Accepted, Embed, Embedded, Finished, Progress
from appliance.errors import ApplianceError, EngineFailed, InvalidRequest, NotCached
from appliance.models.gguf_header import EMBEDDING
from appliance.schemas.embeddings import EmbeddingsRequest
from appliance.service.activity import Activity
from appliance.service.answers import BYPASS, HIT, MISS, NO_CACHE, NO_STORE, NOT_CACHED, OFF, Source
from appliance.service.catalog import ServedModel
from appliance.service.context import RequestContext
from appliance.service.engine_run import EngineRun, usage_of
from appliance.service.inference import Models
from appliance.supervisor.supervisor import Supervisor

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Vector:
    """``values`` are little-endian float32. ``compute_s`` is the text's share of what its request took."""

    values: bytes
    n_tokens: int
    compute_s: float


class Embeddings:
    """What embedding models can be asked for. ``cache`` None: it is off."""

    def __init__(
        self, supervisor: Supervisor, catalog: Models, activity: Activity, cache: ResponseCache | None
    ) -> None:
        self._supervisor = supervisor
        self._catalog = catalog
        self._activity = activity
        self._cache = cache

    def embed(self, request: EmbeddingsRequest, context: RequestContext) -> Embedding:
        """Raises ModelNotFound, or InvalidRequest: the model embeds no texts, or not in so many numbers."""
        model = self._catalog.resolve(request.model)
        context.model = model.name
        model.check_kind(EMBEDDING)
        n_embd = model.stored.record.header.n_embd
        if request.dimensions not in (None, n_embd):
            raise InvalidRequest(
                f"dimensions={request.dimensions}: the model {model.name} makes {n_embd} numbers of a text; "
                "leave it out",
                param="dimensions",
            )
        submit = Embed(
            request_id=f"embd-{uuid.uuid4().hex}",
            inputs=tuple(request.inputs),
            key=context.tenant,
            weight=context.weight,
            is_batch=request.service_tier == "flex",
        )
        return Embedding(self._supervisor, self._cache, self._activity, model, context, submit)


class Embedding:
    """The texts of one request on their way to vectors."""

    def __init__(
        self,
        supervisor: Supervisor,
        cache: ResponseCache | None,
        activity: Activity,
        model: ServedModel,
        context: RequestContext,
        submit: Embed,
    ) -> None:
        self.model = model
        self.submit = submit
        self.context = context
        self.state = "waiting"
        self.n_prompt = 0
        self.n_computed = 0
        self.n_pieces = 0
        self.ttft_s: float | None = None
        self.source: Source | None = None
        self._supervisor = supervisor
        self._cache = cache
        self._activity = activity
        self._figures = activity.metrics.response_cache
        self._is_cancelled = False
        # What an engine did for it.
        self._computed = Finished(submit.request_id, 0, 0, 0)

    @property
    def sources(self) -> list[Source]:
        """Where the vectors came from, once that is known."""
        return [self.source] if self.source is not None else []

    def cancel(self) -> None:
        self._is_cancelled = True
        if self.source is not None:
            self.source.events.cancel()

    async def vectors(self) -> list[Vector]:
        """One for each text, in order. Cancelling the call aborts the request.

        Raises:
            ApplianceError: the request was refused or failed.
        """
        usage: Finished | None = None
        outcome = "abort"
        try:
            with self._activity.entry(self):
                vectors = await self._find_or_compute()
            outcome, usage = "stop", self._usage(vectors)
            return vectors
        except ApplianceError as error:
            outcome = error.code or "error"
            raise
        finally:
            self._activity.ended(self, outcome, usage)

    async def _find_or_compute(self) -> list[Vector]:
        model, inputs = self.model, self.submit.inputs
        keys = [embedding_key(model.identity, self.context.scope, one) for one in inputs]
        reason = self._reason_to_pass_by()
        found = await self._stored(keys) if reason is None else {}
        missing = [number for number in range(len(inputs)) if number not in found]
        if missing and self.context.cache_control.only_if_cached:
            raise NotCached(
                NOT_CACHED[reason]
                if reason is not None
                else f"of {len(inputs)} texts, the vectors of {len(missing)} aren't stored, or aren't young enough "
                "(only-if-cached)"
            )
        run = self._run([inputs[number] for number in missing])
        state = BYPASS if reason is not None else MISS if missing else HIT
        self.source = Source(state, run, max((one.age_s for one in found.values()), default=0.0))
        if self._is_cancelled:  # while we looked
            run.cancel()
        computed = await self._compute(run) if missing else []
        if reason in (None, NO_CACHE):
            self._keep([keys[number] for number in missing], computed)
        vectors = dict(zip(missing, computed, strict=True)) | {
            n: _stored_vector(one.answer) for n, one in found.items()
        }
        return [vectors[number] for number in range(len(inputs))]

    def _reason_to_pass_by(self) -> str | None:
        """Why nothing that is stored is looked for."""
        wanted = self.context.cache_control
        reason = OFF if self._cache is None else NO_STORE if wanted.no_store else NO_CACHE if wanted.no_cache else None
        if reason is not None:
            for _ in self.submit.inputs:
                self._figures.saw_bypass(self.model.name, reason)
        return reason

    async def _stored(self, keys: Sequence[bytes]) -> dict[int, Found]:
        """What there is already, by the number of the text."""
        assert self._cache is not None
        max_age_s = self.context.cache_control.max_age_s
        answers = await asyncio.gather(*(self._cache.get(key, max_age_s=max_age_s) for key in keys))
        found = {number: answer for number, answer in enumerate(answers) if answer is not None}
        for number in range(len(keys)):
            if (one := found.get(number)) is None:
                self._figures.saw_miss(self.model.name)
            else:
                self._figures.saw_hit(self.model.name)
                self._figures.saw_saved(self.model.name, one.answer.n_tokens, one.answer.compute_s)
        return found

    def _run(self, inputs: Sequence[str | tuple[int, ...]]) -> EngineRun:
        def computed(finished: Finished) -> None:
            self._activity.metrics.saw_computed(self.model.name, finished)

        submit = msgspec.structs.replace(self.submit, inputs=tuple(inputs))
        return EngineRun(self._supervisor, self.model.spec, submit, computed)

    async def _compute(self, run: EngineRun) -> list[Vector]:
        async with contextlib.aclosing(run.events()) as batches:
            async for events in batches:
                for event in events:
                    match event:
                        case Accepted(_, n_prompt):
                            self.n_prompt, self.n_computed = n_prompt, 0
                        case Progress(_, n_computed, _):
                            self.state, self.n_computed = "prefill", n_computed
                        case Embedded():
                            self._computed = usage_of(event)
                            return _vectors(event)
        raise EngineFailed("the engine gave no end to the request")

    def _keep(self, keys: Sequence[bytes], vectors: Sequence[Vector]) -> None:
        assert self._cache is not None
        for key, vector in zip(keys, vectors, strict=True):
            event = Embedded("", vector.values, len(vector.values) // FLOAT_BYTES, (vector.n_tokens,))
            answer = Answer(vector.n_tokens, 0, vector.compute_s, (event,))
            version = self.model.stored.record.version
            self._cache.put(key, answer, model=self.model.name, version=version, owner=self.context.key)

    def _usage(self, vectors: Sequence[Vector]) -> Finished:
        n_prompt = sum(vector.n_tokens for vector in vectors)
        return msgspec.structs.replace(self._computed, n_prompt=n_prompt, n_cached=n_prompt - self._computed.n_prompt)


def _vectors(event: Embedded) -> list[Vector]:
    size = event.n_embd * FLOAT_BYTES
    s_per_token = event.compute_s / (sum(event.n_tokens) or 1)
    return [
        Vector(event.vectors[size * number : size * (number + 1)], n_tokens, n_tokens * s_per_token)
        for number, n_tokens in enumerate(event.n_tokens)
    ]


def _stored_vector(answer: Answer) -> Vector:
    (event,) = answer.events
    assert isinstance(event, Embedded)
    return Vector(event.vectors, answer.n_prompt, 0.0)
