"""The engine without its IO: requests in, events out, one step at a time.

Everything here runs on one thread, so there are no locks. Each request that was submitted ends with exactly one
:class:`Finished` or :class:`Failed`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from llguidance import LLMatcher

from appliance.engine.backend import Backend, BadBatch, KVCacheFull, Sampled
from appliance.engine.grammar import Constraint, GrammarCompiler
from appliance.engine.lane import Lane, Lanes
from appliance.engine.messages import (
    Accepted,
    Detokenize,
    Detokenized,
    Event,
    Failed,
    Finished,
    Load,
    Piece,
    Progress,
    PromptPart,
    SequenceFinished,
    Submit,
    Tokenize,
    Tokenized,
)
from appliance.engine.request import OpenRequest
from appliance.engine.sequence import Sequence
from appliance.engine.step import StepPlan
from appliance.engine.text import TextStream
from appliance.errors import ApplianceError, ContextLengthExceeded, EngineFailed, InvalidRequest

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Counts:
    """Summed up since the engine was loaded."""

    n_steps: int = 0
    n_prompt_computed: int = 0
    n_prompt_reused: int = 0
    n_sampled: int = 0
    compute_s: float = 0.0
    longest_step_s: float = 0.0


class EngineCore:
    def __init__(
        self,
        backend: Backend,
        *,
        n_batch: int,
        max_running: int,
        prefix_reuse: bool,
        prompt_step_s: float = 0.25,
        longest_token_bytes: int = 1024,
        now: Callable[[], float] = time.monotonic,
        on_compiled: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_compiled`` is called on another thread when there is something for :meth:`submit_compiled`."""
        self._now = now
        info = backend.info
        self._backend = backend
        self._longest_token_bytes = longest_token_bytes
        self._n_ctx_seq = min(info.n_ctx, info.n_ctx_train)
        lane = Lane(
            0, info, n_batch=n_batch, max_running=max_running, prefix_reuse=prefix_reuse, prompt_step_s=prompt_step_s
        )
        self._lanes = Lanes([lane])
        self._counts = Counts()
        self._grammars = GrammarCompiler(backend.grammar_vocabulary, on_compiled)
        self._requests: dict[str, OpenRequest] = {}
        # Those whose grammar is being compiled.
        self._uncompiled: dict[str, Submit] = {}

    @property
    def is_idle(self) -> bool:
        return not self._requests

    @property
    def only_decodes(self) -> bool:
        """Whether the next step is a short one: there are sequences, and each only gets a token."""
        return not self.is_idle and self._lanes.only_decode

    @property
    def load(self) -> Load:
        schedulers = [lane.scheduler for lane in self._lanes]
        return Load(
            n_running=sum(scheduler.n_running for scheduler in schedulers),
            n_waiting=sum(scheduler.n_waiting for scheduler in schedulers) + len(self._uncompiled),
            n_cells_used=sum(scheduler.n_cells_used for scheduler in schedulers),
            n_cells=self._backend.info.n_ctx * len(schedulers),
            n_retained=sum(scheduler.n_retained for scheduler in schedulers),
            n_steps=self._counts.n_steps,
            n_prompt_computed=self._counts.n_prompt_computed,
            n_prompt_reused=self._counts.n_prompt_reused,
            n_sampled=self._counts.n_sampled,
            n_preempted=sum(scheduler.n_preempted for scheduler in schedulers),
            n_evicted=sum(scheduler.n_evicted for scheduler in schedulers),
            compute_s=self._counts.compute_s,
            longest_step_s=self._counts.longest_step_s,
        )

    def submit(self, message: Submit) -> list[Event]:
        """Queues a request, or refuses it. One with a grammar that is new is kept back until that is compiled."""
        try:
            matcher = self._grammars.get(message.grammar) if message.grammar else None
            if message.grammar and matcher is None:
                self._uncompiled[message.request_id] = message
                return []
            request = self._requests[message.request_id] = self._admit(message, matcher)
        except ApplianceError as error:
            return [Failed(message.request_id, error.code or "", error.message, error.param)]
        return [Accepted(message.request_id, request.n_prompt)]

    def close(self) -> None:
        """Nothing of it looks into the backend from now on."""
        self._grammars.close()

    def prepare_grammars(self) -> None:
        """So that the first one with a grammar needn't wait as long."""
        self._grammars.prepare()

    def submit_compiled(self) -> list[Event]:
        """Queues what was kept back and need not be any longer."""
        waiting, self._uncompiled = self._uncompiled, {}
        return [event for message in waiting.values() for event in self.submit(message)]

    def tokenize(self, message: Tokenize) -> list[Event]:
        try:
            return [Tokenized(message.request_id, tuple(self._tokenize(message.parts)))]
        except ApplianceError as error:
            return [Failed(message.request_id, error.code or "", error.message, error.param)]

    def detokenize(self, message: Detokenize) -> list[Event]:
        try:
            self._check_tokens(message.tokens, "tokens")
        except ApplianceError as error:
            return [Failed(message.request_id, error.code or "", error.message, error.param)]
        return [Detokenized(message.request_id, self._text_of(message.tokens))]

    def abort(self, request_id: str) -> list[Event]:
        """Ends a request now. One that has ended already is left alone: its last event crossed the abort."""
        if self._uncompiled.pop(request_id, None) is not None:
            return [Finished(request_id, n_prompt=0, n_cached=0, n_completion=0)]
        request = self._requests.get(request_id)
        if request is None:
            return []
        return [self._end(request, self._now())]

    def abort_all(self, code: str, message: str) -> list[Event]:
        """Fails every open request."""
        uncompiled, self._uncompiled = self._uncompiled, {}
        failed: list[Event] = [Failed(request_id, code, message) for request_id in uncompiled]
        return failed + [self._fail(request, code, message) for request in list(self._requests.values())]

    def step(self) -> list[Event]:
        """Computes one step of one lane; the events it led to, in order."""
        lane, plan = self._lanes.schedule()
        now = self._now()
        for chunk in plan.chunks:
            request = self._requests[chunk.sequence.request_id]
            if request.started_at is None:
                request.started_at = now
        try:
            sampled = self._backend.run(plan, lane.number)
        except KVCacheFull as error:
            return [] if lane.free_room(plan) else self._fail_plan(plan, str(error))
        except BadBatch as error:
            return self._fail_plan(plan, f"the backend refused a batch: {error}")
        ended_at = self._now()
        lane.step_done(plan, ended_at - now)
        self._count(plan, len(sampled), ended_at - now)
        lane.scheduler.apply(plan, [result.token for result in sampled])
        events: list[Event] = []
        results = iter(sampled)
        for chunk in plan.chunks:
            if chunk.wants_logits:
                events += self._advance(chunk.sequence, next(results), ended_at)
            elif chunk.sequence.index == 0:
                sequence = chunk.sequence
                events.append(
                    Progress(sequence.request_id, min(sequence.n_computed, sequence.n_prompt), sequence.n_prompt)
                )
        if lane.scheduler.is_idle and log.isEnabledFor(logging.DEBUG):
            lane.scheduler.check_integrity()
        return events

    def _count(self, plan: StepPlan, n_sampled: int, step_s: float) -> None:
        self._counts.n_steps += 1
        self._counts.n_prompt_computed += plan.n_prompt_tokens
        self._counts.n_sampled += n_sampled
        self._counts.compute_s += step_s
        if step_s > self._counts.longest_step_s:
            self._counts.longest_step_s = step_s

    def _admit(self, message: Submit, matcher: LLMatcher | None) -> OpenRequest:
        tokens = list(message.tokens) if message.tokens else self._tokenize(message.parts)
        if not tokens:
            raise InvalidRequest("the prompt is empty", param="prompt")
        self._check_tokens(tokens, "prompt")
        if len(tokens) >= self._n_ctx_seq:
            raise ContextLengthExceeded(
                f"the prompt has {len(tokens)} tokens; this model's context holds {self._n_ctx_seq}, and at least "
                "one must be left for the answer. Shorten the prompt, or raise n_ctx",
                param="prompt",
            )
        lane = self._lanes.first
        request = OpenRequest(
            message, self._backend, lane, n_prompt=len(tokens), n_ctx=self._n_ctx_seq, submitted_at=self._now()
        )
        if message.echo:
            request.echo = "".join(part.text for part in message.parts) or self._text_of(message.tokens)
        for index in range(message.n):
            sequence = Sequence(
                request_id=message.request_id,
                index=index,
                tokens=list(tokens),
                n_prompt=len(tokens),
                scope=message.scope,
                key=message.key,
                weight=message.weight,
                is_batch=message.is_batch,
                exact=message.params.seed is not None,
                top_logprobs=message.top_logprobs,
            )
            request.open[index] = sequence
        self._open_samplers(request, matcher)
        for sequence in request.open.values():
            request.text[sequence.index] = TextStream(message.stop)
            lane.scheduler.add(sequence)
        return request

    def _tokenize(self, parts: tuple[PromptPart, ...]) -> list[int]:
        """Refuses at once what can't fit: to find its tokens would stop all others for seconds."""
        n_bytes = sum(len(part.text.encode()) for part in parts)
        n_least = n_bytes // self._longest_token_bytes
        if n_least > self._n_ctx_seq:
            raise ContextLengthExceeded(
                f"the prompt has {n_bytes} bytes, which are more than {n_least} tokens; this model's context holds "
                f"{self._n_ctx_seq}. Shorten the prompt, or raise n_ctx",
                param="prompt",
            )
        return self._backend.tokenize(parts)

    def _text_of(self, tokens: Iterable[int]) -> str:
        """The text of tokens, control tokens written out."""
        return b"".join(map(self._backend.token_name, tokens)).decode("utf-8", "replace")

    def _check_tokens(self, tokens: Iterable[int], param: str) -> None:
        n_vocab = self._backend.info.n_vocab
        for token in tokens:
            if not 0 <= token < n_vocab:
                raise InvalidRequest(f"token {token} is not in the vocabulary (0 to {n_vocab - 1})", param=param)

    def _open_samplers(self, request: OpenRequest, matcher: LLMatcher | None) -> None:
        params = request.submit.params
        opened: list[Sequence] = []
        try:
            for sequence in request.open.values():
                constraint = None if matcher is None else Constraint(matcher.deep_copy())
                self._backend.open_sampler(sequence, params, constraint)
                opened.append(sequence)
        except ApplianceError:
            for sequence in opened:
                self._backend.close_sampler(sequence)
            raise

    def _advance(self, sequence: Sequence, result: Sampled, at: float) -> list[Event]:
        """What one more token of a sequence leads to; ``at`` is when its step ended."""
        request = self._requests.get(sequence.request_id)
        if request is None:
            return []  # another of its sequences has failed it in this step
        if result.error is not None:
            return [self._fail(request, EngineFailed.code or "", result.error)]
        if request.first_token_at is None:
            request.first_token_at = at
        is_first = sequence.n_completion == 1
        released, logprobs, reason = request.go_on(sequence, result.token, result.logprob)
        for token in result.forced:
            if reason is not None:
                break
            request.lane.scheduler.force(sequence, token)
            more, _, reason = request.go_on(sequence, token, None)
            released += more
        else:
            if result.is_complete:  # also at the last token that was allowed
                rest, rest_logprobs = request.text[sequence.index].finish()
                released, logprobs, reason = released + rest, logprobs + rest_logprobs, "stop"
        if is_first:
            released = request.echo + released
        events: list[Event] = []
        if released or logprobs:
            events.append(Piece(sequence.request_id, sequence.index, released, logprobs))
        if reason is not None:
            events.append(SequenceFinished(sequence.request_id, sequence.index, reason, sequence.n_completion))
            self._close(request, sequence)
            if not request.open:
                events.append(self._end(request, at))
        return events

    def _close(self, request: OpenRequest, sequence: Sequence) -> None:
        request.lane.scheduler.finish(sequence)
        self._backend.close_sampler(sequence)
        del request.open[sequence.index]
        request.n_completion += sequence.n_completion
        if sequence.index == 0:  # the others share what the first one computed
            request.n_cached = sequence.n_cached or 0
        self._counts.n_prompt_reused += sequence.n_cached or 0

    def _end(self, request: OpenRequest, at: float) -> Event:
        self._forget(request)
        started_at = at if request.started_at is None else request.started_at
        first_token_at = at if request.first_token_at is None else request.first_token_at
        return Finished(
            request.submit.request_id,
            request.n_prompt,
            request.n_cached,
            request.n_completion,
            queue_s=started_at - request.submitted_at,
            prefill_s=first_token_at - started_at,
            decode_s=at - first_token_at,
        )

    def _fail(self, request: OpenRequest, code: str, message: str) -> Event:
        for sequence in request.open.values():
            request.lane.scheduler.discard(sequence)
            self._backend.close_sampler(sequence)
        request.open.clear()
        self._forget(request)
        return Failed(request.submit.request_id, code, message)

    def _forget(self, request: OpenRequest) -> None:
        for sequence in list(request.open.values()):
            self._close(request, sequence)
        del self._requests[request.submit.request_id]

    def _fail_plan(self, plan: StepPlan, message: str) -> list[Event]:
        request_ids = {chunk.sequence.request_id for chunk in plan.chunks}
        return [self._fail(self._requests[rid], EngineFailed.code or "", message) for rid in sorted(request_ids)]
