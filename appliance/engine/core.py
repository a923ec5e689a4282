"""The engine without its IO: requests in, events out, one step at a time.

Everything here runs on one thread, so there are no locks. Each request that was submitted ends with exactly one
:class:`Finished` or :class:`Failed`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from llguidance import LLMatcher

from appliance.engine.backend import Backend, BadBatch, KVCacheFull, Sampled
from appliance.engine.counts import Counts
from appliance.engine.grammar import Constraint, GrammarCompiler
from appliance.engine.kv_keeper import KVKeeper
from appliance.engine.lane import Lane
from appliance.engine.lanes import Lanes
from appliance.engine.messages import (
    Accepted,
    Detokenize,
    Detokenized,
    Embed,
    Event,
    Failed,
    Finished,
    Load,
    Piece,
    Progress,
    SequenceFinished,
    Submit,
    Tokenize,
    Tokenized,
)
from appliance.engine.prompt_lookup import PromptLookup
from appliance.engine.prompts import Prompts
from appliance.engine.request import OpenRequest
from appliance.engine.sequence import Sequence
from appliance.engine.step import StepPlan
from appliance.engine.text import TextStream
from appliance.engine.warm_tier import KeptBack, Wait, WarmTier
from appliance.errors import ApplianceError, EngineFailed

log = logging.getLogger(__name__)


class EngineCore:
    def __init__(
        self,
        backend: Backend,
        *,
        n_batch: int,
        max_running: int,
        prefix_reuse: bool,
        speculation: bool = False,
        prompt_step_s: float = 0.25,
        longest_token_bytes: int = 1024,
        now: Callable[[], float] = time.monotonic,
        on_ready: Callable[[], None] = lambda: None,
        keeper: KVKeeper | None = None,
    ) -> None:
        """``on_ready`` is called on another thread when there is something for :meth:`submit_ready`.

        ``keeper`` None: no prefixes are kept on disk.
        """
        self._now = now
        info = backend.info
        self._backend = backend
        self._speculation = speculation
        self._n_ctx_seq = min(info.n_ctx, info.n_ctx_train)
        self._prompts = Prompts(backend, n_ctx=self._n_ctx_seq, longest_token_bytes=longest_token_bytes)
        self._lanes = Lanes(
            backend,
            n_batch=n_batch,
            max_running=max_running,
            prefix_reuse=prefix_reuse,
            prompt_step_s=prompt_step_s,
            now=now,
        )
        self._counts = Counts()
        self._grammars = GrammarCompiler(backend.grammar_vocabulary, on_ready)
        self._warm = WarmTier(keeper, backend, self._lanes, now=now) if keeper is not None else None
        self._requests: dict[str, OpenRequest] = {}
        # Those whose grammar is being compiled, or whose prefix is being read.
        self._kept_back: dict[str, KeptBack] = {}

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
            n_running=sum(s.n_running for s in schedulers),
            n_waiting=sum(s.n_waiting for s in schedulers) + self._lanes.n_waiting + len(self._kept_back),
            n_cells_used=sum(s.n_cells_used for s in schedulers),
            n_cells=self._backend.info.n_ctx * len(schedulers),
            n_retained=sum(s.n_retained for s in schedulers),
            n_steps=self._counts.n_steps,
            n_prompt_computed=self._counts.n_prompt_computed,
            n_prompt_reused=self._counts.n_prompt_reused,
            n_sampled=self._counts.n_sampled,
            n_drafted=self._counts.n_drafted,
            n_draft_accepted=self._counts.n_draft_accepted,
            n_preempted=sum(s.n_preempted for s in schedulers),
            n_evicted=sum(s.n_evicted for s in schedulers),
            compute_s=self._counts.compute_s,
            longest_step_s=self._counts.longest_step_s,
            warm_tier=self._warm.counts if self._warm is not None else None,
        )

    @property
    def timeout_s(self) -> float | None:
        """How long it may be left alone while it is idle, unless it is woken; None: for ever."""
        return self._warm.timeout_s(self._waits) if self._warm is not None else None

    @property
    def _waits(self) -> list[Wait]:
        return [kept.wait for kept in self._kept_back.values() if kept.wait is not None]

    def submit(self, message: Submit | Embed) -> list[Event]:
        """Queues a request, or refuses it.

        One with a grammar that is new is kept back until that is compiled; one whose prefix is on disk, until that is
        read.
        """
        if isinstance(message, Embed):
            return [Failed(message.request_id, EngineFailed.code or "", "this model writes text and embeds none")]
        return self._submit(message, None)

    def _submit(self, message: Submit, tokens: list[int] | None) -> list[Event]:
        """``tokens``: the prompt's, of one that has been kept back for what is on disk."""
        try:
            self._lanes.check(message.adapter)
            matcher = self._grammars.get(message.grammar) if message.grammar else None
            if message.grammar and matcher is None:
                self._kept_back[message.request_id] = KeptBack(message)
                return []
            if tokens is None:
                tokens = self._prompts.tokens(message)
                wait = self._look_on_disk(message, tokens)
                if wait is not None:
                    self._kept_back[message.request_id] = KeptBack(message, tokens, wait)
                    return []
            request = self._requests[message.request_id] = self._admit(message, tokens, matcher)
        except ApplianceError as error:
            return [Failed(message.request_id, error.code or "", error.message, error.param)]
        return [Accepted(message.request_id, request.n_prompt)]

    def _look_on_disk(self, message: Submit, tokens: list[int]) -> Wait | None:
        if self._warm is None or message.params.seed is not None:  # it may take nothing from another process
            return None
        lane = self._lanes.bound_now(message.adapter)
        return None if lane is None else self._warm.look(lane, message.scope, tokens)

    def close(self) -> None:
        """Nothing of it looks into the backend from now on."""
        self._grammars.close()

    def prepare_grammars(self) -> None:
        """So that the first one with a grammar needn't wait as long."""
        self._grammars.prepare()

    def submit_ready(self) -> list[Event]:
        """Queues what was kept back and need not be any longer."""
        ended = self._warm.end_waits(self._waits) if self._warm is not None else {}
        if not self._kept_back:
            return []
        events: list[Event] = []
        waiting, self._kept_back = self._kept_back, {}
        for request_id, kept in waiting.items():
            if kept.wait is None:
                events += self.submit(kept.message)
            elif kept.wait.stored.path in ended:
                events += self._submit(kept.message, kept.tokens)
                self._await_slot(request_id, kept.wait, ended[kept.wait.stored.path])
            else:
                self._kept_back[request_id] = kept
        return events

    def _await_slot(self, request_id: str, wait: Wait, slot: int | None) -> None:
        """What was read for a request is kept until it starts, or has ended."""
        if slot is None:
            return
        request = self._requests.get(request_id)
        if request is not None and request.lane is wait.lane:
            request.open[0].left_slot = slot
        else:
            wait.lane.scheduler.slots.no_longer_awaited(slot)

    def save_due(self) -> None:
        """Copies a retained prefix for the disk, if it is time for that."""
        if self._warm is not None:
            self._warm.save_due(is_idle=self.is_idle)

    def save_all(self, timeout_s: float) -> None:
        """Writes what is retained to the disk, as far as that can be done within this time. The last that is called."""
        if self._warm is not None:
            self._warm.close(timeout_s)

    def tokenize(self, message: Tokenize) -> list[Event]:
        try:
            return [Tokenized(message.request_id, tuple(self._prompts.tokenize(message.parts)))]
        except ApplianceError as error:
            return [Failed(message.request_id, error.code or "", error.message, error.param)]

    def detokenize(self, message: Detokenize) -> list[Event]:
        try:
            self._prompts.check(message.tokens, "tokens")
        except ApplianceError as error:
            return [Failed(message.request_id, error.code or "", error.message, error.param)]
        return [Detokenized(message.request_id, self._prompts.text_of(message.tokens))]

    def abort(self, request_id: str) -> list[Event]:
        """Ends a request now. One that has ended already is left alone: its last event crossed the abort."""
        if self._kept_back.pop(request_id, None) is not None:
            return [Finished(request_id, n_prompt=0, n_cached=0, n_completion=0)]
        request = self._requests.get(request_id)
        if request is None:
            return []
        return [self._end(request, self._now())]

    def abort_all(self, code: str, message: str) -> list[Event]:
        """Fails every open request."""
        kept_back, self._kept_back = self._kept_back, {}
        failed: list[Event] = [Failed(request_id, code, message) for request_id in kept_back]
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
        self._counts.saw_step(plan.n_prompt_tokens, ended_at - now + lane.draft_s)
        self._counts.saw_sampled(plan, sampled)
        self._apply(lane, plan, sampled)
        if self._warm is not None:
            self._warm.step_done()
        events: list[Event] = []
        results = iter(sampled)
        for chunk in plan.chunks:
            if chunk.wants_logits:
                events += self._advance(lane, chunk.sequence, next(results), ended_at)
            elif chunk.sequence.index == 0:
                sequence = chunk.sequence
                events.append(
                    Progress(sequence.request_id, min(sequence.n_computed, sequence.n_prompt), sequence.n_prompt)
                )
        if lane.scheduler.is_idle and log.isEnabledFor(logging.DEBUG):
            lane.scheduler.check_integrity()
        return events

    @staticmethod
    def _apply(lane: Lane, plan: StepPlan, sampled: list[Sampled]) -> None:
        tokens = [result.token for result in sampled]
        wanting = [chunk.sequence for chunk in plan.chunks if chunk.wants_logits] if plan.has_drafts else []
        n_right = {sequence: len(result.following) for sequence, result in zip(wanting, sampled, strict=False)}
        lane.apply(plan, tokens, n_right)

    def _admit(self, message: Submit, tokens: list[int], matcher: LLMatcher | None) -> OpenRequest:
        request = OpenRequest(
            message, self._backend, n_prompt=len(tokens), n_ctx=self._n_ctx_seq, submitted_at=self._now()
        )
        if message.echo:
            request.echo = self._prompts.text(message)
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
                n_most=self._n_ctx_seq if message.max_tokens is None else len(tokens) + message.max_tokens,
            )
            request.open[index] = sequence
            if self._may_guess(message):
                sequence.lookup = PromptLookup(sequence.tokens, len(tokens))
        self._open_samplers(request, matcher)
        for sequence in request.open.values():
            request.text[sequence.index] = TextStream(message.stop)
        self._lanes.add(request)
        return request

    def _may_guess(self, message: Submit) -> bool:
        """Whether it may be guessed how its answers go on: not under a grammar, which follows what was sampled."""
        info = self._backend.info
        is_exact = message.params.seed is None or (info.exact_reuse and not message.adapter)
        return self._speculation and message.speculation and info.can_cut_prefix and is_exact and not message.grammar

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

    def _advance(self, lane: Lane, sequence: Sequence, result: Sampled, at: float) -> list[Event]:
        """What one more token of a sequence leads to; ``at`` is when its step ended."""
        request = self._requests.get(sequence.request_id)
        if request is None:
            return []  # another of its sequences has failed it in this step
        error = next((one.error for one in (result, *result.following) if one.error is not None), None)
        if error is not None:
            return [self._fail(request, EngineFailed.code or "", error)]
        if request.first_token_at is None:
            request.first_token_at = at
        is_first = sequence.n_completion == 1
        released, logprobs, reason = request.go_on(sequence, result)
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
        self._lanes.finish(request, sequence)
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
            self._lanes.discard(request, sequence)
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
