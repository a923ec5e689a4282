"""A prompt and what comes of it, and what the log, the metrics and the admin API are told of that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from appliance.chat.formats import Form
from appliance.engine.messages import Accepted, Event, Finished, Piece, Progress, SequenceFinished, Submit, TokenLogprob
from appliance.errors import ApplianceError, EngineFailed, SchemaViolation
from appliance.service.activity import Activity
from appliance.service.answers import JOINED, Answers, Source
from appliance.service.catalog import ServedModel
from appliance.service.context import RequestContext
from appliance.service.forms import Forms, Parts, first_violation


@dataclass(slots=True)
class Choice:
    """One of a request's ``n`` answers."""

    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    choices: tuple[Choice, ...]
    usage: Finished


class Generation:
    """One prompt of a request. Call :meth:`commit` once text of it has left: from then on it can't begin again."""

    def __init__(
        self,
        answers: Answers,
        model: ServedModel,
        activity: Activity,
        context: RequestContext,
        submit: Submit,
        forms: Forms,
        wanted_forms: Sequence[Form],
        parts_of: Parts,
    ) -> None:
        """``wanted_forms`` are looked at before anything else is done, ``parts_of`` each text once it is whole."""
        self.submit = submit
        self.context = context
        self.state = "waiting"
        self.n_prompt = 0
        self.n_pieces = 0
        self.n_computed = 0
        self.ttft_s: float | None = None
        # Where the answer comes from, once that is known.
        self.source: Source | None = None
        # Why there is none.
        self.refusal: ApplianceError | None = None
        self.is_located = asyncio.Event()
        self._answers = answers
        self._model = model
        self._activity = activity
        self._forms = forms
        self._wanted_forms = wanted_forms
        self._parts_of = parts_of
        self._last_piece_at: dict[int, float] = {}
        self._is_cancelled = False
        self._finish_reason = "stop"
        self._outcome = "abort"

    def commit(self) -> None:
        """Text has left."""
        if self.source is not None:
            self.source.events.commit()

    def cancel(self) -> None:
        """Ends the request with an error, whoever waits for it."""
        self._is_cancelled = True
        if self.source is not None:
            self.source.events.cancel()

    async def events(self) -> AsyncGenerator[Sequence[Event], None]:
        """The request's events as they come; the last one is Finished. Closing the iterator aborts the request.

        A second :class:`Accepted` means that the engine has died and the request runs again from its beginning:
        forget what came before.

        Raises:
            ApplianceError: the request was refused or failed.
        """
        finished: Finished | None = None
        try:
            with self._activity.entry(self):
                try:
                    await self._forms.check(self._wanted_forms)
                    source = self.source = await self._answers.find(
                        self._model, self.submit, self.context, self._parts_of
                    )
                except ApplianceError as error:
                    self.refusal = error
                    raise
                finally:
                    self.is_located.set()
                if self._is_cancelled:  # while we looked
                    source.events.cancel()
                async with contextlib.aclosing(source.events.events()) as batches:
                    async for events in batches:
                        self._note(events, source)
                        last = events[-1]
                        if isinstance(last, Finished):
                            finished, self._outcome = last, self._finish_reason
                        yield events
        except ApplianceError as error:
            self._outcome = error.code or "error"
            raise
        finally:
            self._activity.ended(self, self._outcome, finished)

    async def answer(self) -> Answer:
        """The whole answer. Cancelling the call aborts the request.

        Raises:
            ApplianceError: as :meth:`events`; also if a text isn't as its JSON schema wants it.
        """
        choices: tuple[Choice, ...] = ()
        async with contextlib.aclosing(self.events()) as batches:
            async for events in batches:
                for event in events:
                    if isinstance(event, Piece):  # most are, by far
                        choice = choices[event.index]
                        choice.text.append(event.text)
                        choice.logprobs += event.logprobs
                        continue
                    match event:
                        case Accepted():
                            choices = tuple(Choice() for _ in range(self.submit.n))
                        case SequenceFinished(_, index, reason):
                            choices[index].finish_reason = reason
                        case Finished():
                            await self._check_texts(choices)
                            return Answer(choices, event)
        raise EngineFailed("the engine gave no end to the request")

    async def _check_texts(self, choices: Sequence[Choice]) -> None:
        """Raises SchemaViolation. What was cut off at a length can't be as its schema wants it, and says so."""
        texts = ["".join(choice.text) for choice in choices if choice.finish_reason == "stop"]
        found = await first_violation(self._parts_of, texts)
        if found is not None:
            error = SchemaViolation(f"the text isn't as its schema wants it: {found.problem}", param=found.param)
            self._outcome = str(error.code)
            self._activity.metrics.saw_schema_violation(self.context.model)
            raise error

    def _note(self, events: Sequence[Event], source: Source) -> None:
        """Keeps what the status, the log and the metrics want to know."""
        n_pieces: dict[int, int] = {}
        for event in events:
            if isinstance(event, Piece):  # most are, by far
                n_pieces[event.index] = n_pieces.get(event.index, 0) + 1
                continue
            match event:
                case Progress(_, n_computed, _):
                    self.state, self.n_computed = "prefill", n_computed
                case Accepted(_, n_prompt):
                    self.n_prompt = n_prompt
                case SequenceFinished(_, _, reason):
                    self._finish_reason = reason
                case Finished() if source.state == JOINED:
                    self._activity.metrics.response_cache.saw_saved(
                        self.context.model, event.n_prompt + event.n_completion, event.prefill_s + event.decode_s
                    )
        if n_pieces:
            self._note_pieces(n_pieces, source)

    def _note_pieces(self, n_pieces: dict[int, int], source: Source) -> None:
        """How many have come, of each sequence."""
        now = asyncio.get_running_loop().time()
        metrics, model = self._activity.metrics, self.context.model
        self.n_pieces += sum(n_pieces.values())
        if self.ttft_s is None:
            self.state = "decode"
            self.ttft_s = now - self.context.arrived_at
            if source.is_computed_for_it:
                metrics.saw_first_token(model, self.ttft_s)
        if not source.is_computed_for_it:
            return
        for index, n in n_pieces.items():
            before = self._last_piece_at.get(index)
            self._last_piece_at[index] = now
            # Those that come together were computed one after the other since the last that came.
            if before is not None:
                metrics.saw_next_tokens(model, (now - before) / n, n)
            elif n > 1:
                metrics.saw_next_tokens(model, 0.0, n - 1)
