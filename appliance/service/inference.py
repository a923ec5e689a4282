"""From what was asked to what runs: picks the model, renders prompts, makes the engine's messages."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from appliance.chat.formats import Form, form_of
from appliance.engine.messages import Detokenize, Detokenized, Failed, PromptPart, Submit, Tokenize, Tokenized
from appliance.engine.params import SamplingParams
from appliance.errors import ENGINE_ERRORS, EngineFailed, InvalidRequest
from appliance.models.gguf_header import TEXT
from appliance.schemas.chat import ChatRequest
from appliance.schemas.completions import DEFAULT_MAX_TOKENS, CompletionRequest, Prompt
from appliance.schemas.sampling import GenerationFields, SamplingFields
from appliance.service.activity import Activity
from appliance.service.answers import Answers
from appliance.service.catalog import ServedModel
from appliance.service.completion import Completion
from appliance.service.context import RequestContext
from appliance.service.conversation import render
from appliance.service.forms import Forms
from appliance.service.generation import Generation
from appliance.service.tool_calls import ToolUse, tool_use
from appliance.supervisor.supervisor import Supervisor


class Models(Protocol):
    """Knows which models there are; ``service.catalog`` is the real one."""

    def resolve(self, reference: str | None) -> ServedModel: ...


class Inference:
    """What can be asked of the models. Generations run when their answer or events are awaited."""

    def __init__(self, supervisor: Supervisor, catalog: Models, activity: Activity, answers: Answers) -> None:
        self._supervisor = supervisor
        self._catalog = catalog
        self._activity = activity
        self._answers = answers
        self._forms = Forms()

    def chat(self, request: ChatRequest, context: RequestContext) -> Completion:
        """Raises ModelNotFound, or InvalidRequest: the model's template refuses the conversation, or tools can't be
        had as they are asked for.
        """
        model = self._writer(request.model, context)
        use = tool_use(model, request)
        parts = render(model, request.messages, use.tools if use is not None else ())
        max_tokens = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
        top_logprobs = (request.top_logprobs or 0) if request.logprobs else None
        return self._completion(model, "chatcmpl", request, context, [parts], max_tokens, top_logprobs, tool_use=use)

    def complete(self, request: CompletionRequest, context: RequestContext) -> Completion:
        """Raises ModelNotFound."""
        model = self._writer(request.model, context)
        max_tokens = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
        return self._completion(
            model, "cmpl", request, context, request.prompts, max_tokens, request.logprobs, echo=request.echo
        )

    def resolve(self, name: str | None, context: RequestContext | None = None) -> ServedModel:
        """The model that is meant; ``context`` learns its name. Raises ModelNotFound, listing those there are."""
        model = self._catalog.resolve(name)
        if context is not None:
            context.model = model.name
        return model

    def _writer(self, name: str | None, context: RequestContext) -> ServedModel:
        """As :meth:`resolve`; raises InvalidRequest for a model that writes no text."""
        model = self.resolve(name, context)
        model.check_kind(TEXT)
        return model

    async def tokenize(self, model: ServedModel, parts: tuple[PromptPart, ...]) -> tuple[int, ...]:
        """The tokens of a prompt, as a generation would compute them."""
        event = await self._ask(model, Tokenize(_new_id("tok"), parts))
        assert isinstance(event, Tokenized)
        return event.tokens

    async def detokenize(self, model: ServedModel, tokens: Sequence[int]) -> str:
        """The text of tokens, control tokens written out. Raises InvalidRequest for one that is none."""
        event = await self._ask(model, Detokenize(_new_id("detok"), tuple(tokens)))
        assert isinstance(event, Detokenized)
        return event.text

    async def _ask(self, model: ServedModel, message: Tokenize | Detokenize) -> object:
        async with self._supervisor.engine(model.spec) as engine, engine.submit(message) as stream:
            (event,) = await stream.next_events()
        if isinstance(event, Failed):
            raise ENGINE_ERRORS.get(event.code, EngineFailed)(event.message, param=event.param)
        return event

    def _completion(
        self,
        model: ServedModel,
        prefix: str,
        request: GenerationFields,
        context: RequestContext,
        prompts: Sequence[Prompt | tuple[PromptPart, ...]],
        max_tokens: int | None,
        top_logprobs: int | None,
        *,
        echo: bool = False,
        tool_use: ToolUse | None = None,
    ) -> Completion:
        completion_id = _new_id(prefix)
        form = form_of(request)
        if form is not None and tool_use is not None:
            raise InvalidRequest(
                f"{form.param} together with tools that may be called is not supported; tool_choice 'none' leaves "
                "them out",
                param=form.param,
            )
        if tool_use is not None:
            forms, parts_of = tool_use.forms, tool_use.strict_parts
        else:
            forms = (form,) if form is not None else ()
            parts_of = partial(_whole, forms)
        params = sampling_params(request, model.sampling)
        generations = []
        for number, prompt in enumerate(prompts):
            submit = Submit(
                request_id=completion_id if len(prompts) == 1 else f"{completion_id}-{number}",
                parts=_parts(prompt),
                tokens=tuple(prompt) if isinstance(prompt, list) else (),
                params=params,
                n=request.n or 1,
                max_tokens=max_tokens,
                stop=request.stop_strings,
                top_logprobs=top_logprobs,
                ignore_eos=request.ignore_eos,
                speculation=request.speculation,
                echo=echo,
                scope=context.scope,
                key=context.tenant,
                weight=context.weight,
                is_batch=request.service_tier == "flex",
                adapter=model.adapter.id if model.adapter is not None else "",
                grammar=tool_use.grammar if tool_use is not None else form.grammar if form is not None else "",
                shown_tokens=tool_use.shown_tokens if tool_use is not None else (),
            )
            generations.append(
                Generation(self._answers, model, self._activity, context, submit, self._forms, forms, parts_of)
            )
        return Completion(
            id=completion_id,
            model=model.name,
            fingerprint=model.fingerprint,
            created_s=int(time.time()),
            service_tier=request.served_tier,
            generations=tuple(generations),
            n=request.n or 1,
            tool_use=tool_use,
        )


def sampling_params(fields: SamplingFields, defaults: Mapping[str, Any]) -> SamplingParams:
    """The engine's sampling parameters; those left out take the model's ``defaults``, then the engine's."""
    given = dict(defaults) | fields.model_dump(include=set(SamplingFields.model_fields), exclude_none=True)
    if "logit_bias" in given:
        # A bias of 0 is none: such a token isn't even looked for.
        given["logit_bias"] = {int(token): bias for token, bias in given["logit_bias"].items() if bias}
    if "dry_sequence_breakers" in given:
        given["dry_sequence_breakers"] = tuple(given["dry_sequence_breakers"])
    return SamplingParams(**given)


def _whole(forms: Sequence[Form], text: str) -> Sequence[tuple[Form, str]]:
    return [(form, text) for form in forms]


def _new_id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex}"


def _parts(prompt: Prompt | tuple[PromptPart, ...]) -> tuple[PromptPart, ...]:
    """A raw text is the app's own template: its control tokens are recognised."""
    if isinstance(prompt, str):
        return (PromptPart(prompt, True),)
    return prompt if isinstance(prompt, tuple) else ()
