"""From what was asked to what runs: picks the model, renders prompts, makes the engine's messages."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from appliance.chat.template import ChatTemplate
from appliance.engine.build import engine_build
from appliance.engine.messages import Detokenize, Detokenized, Failed, PromptPart, Submit, Tokenize, Tokenized
from appliance.engine.params import SamplingParams
from appliance.errors import ENGINE_ERRORS, EngineFailed, InvalidRequest, ModelNotFound
from appliance.models.store import StoredModel
from appliance.schemas.chat import ChatRequest, Message
from appliance.schemas.completions import DEFAULT_MAX_TOKENS, CompletionRequest, Prompt
from appliance.schemas.sampling import GenerationFields, SamplingFields
from appliance.service.activity import Activity
from appliance.service.completion import Completion
from appliance.service.context import RequestContext
from appliance.service.generation import Generation
from appliance.supervisor.supervisor import Supervisor

# A template knows OpenAI's older name of the role only.
_ROLES = {"developer": "system"}


class Inference:
    """What can be asked of the model that is served. Generations run when their answer or events are awaited."""

    def __init__(self, supervisor: Supervisor, model: StoredModel, activity: Activity) -> None:
        self._supervisor = supervisor
        self._model = model
        self._activity = activity
        self._fingerprint = f"{model.record.gguf_sha256[:12]}-{engine_build()}"
        header = model.record.header
        self._template = None
        if header.chat_template is not None:
            self._template = ChatTemplate(
                header.chat_template,
                bos_token=header.bos_token,
                eos_token=header.eos_token,
                control_tokens=header.control_tokens,
            )

    def chat(self, request: ChatRequest, context: RequestContext) -> Completion:
        """Raises ModelNotFound, or InvalidRequest if the model's template refuses the conversation."""
        context.model = self.resolve(request.model)
        parts = self.render(request.messages)
        max_tokens = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
        top_logprobs = (request.top_logprobs or 0) if request.logprobs else None
        return self._completion("chatcmpl", request, context, [parts], max_tokens, top_logprobs)

    async def complete(self, request: CompletionRequest, context: RequestContext) -> Completion:
        """Raises ModelNotFound."""
        context.model = self.resolve(request.model)
        prompts = request.prompts
        echo: tuple[str, ...] = ()
        if request.echo:
            echo = tuple([p if isinstance(p, str) else await self.detokenize(p) for p in prompts])
        max_tokens = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
        return self._completion("cmpl", request, context, prompts, max_tokens, request.logprobs, echo)

    def render(self, messages: Sequence[Message]) -> tuple[PromptPart, ...]:
        """The prompt parts of a conversation. Raises InvalidRequest."""
        if self._template is None:
            raise InvalidRequest(
                f"the model {self._model.name} has no chat template; use /v1/completions", param="messages"
            )
        return self._template.render([_template_message(message) for message in messages])

    def resolve(self, model: str | None) -> str:
        """The name of the model that is meant. Raises ModelNotFound, listing those there are."""
        if model and model != self._model.name:
            raise ModelNotFound(f"the model '{model}' does not exist; there are: {self._model.name}", param="model")
        return self._model.name

    async def tokenize(self, parts: tuple[PromptPart, ...]) -> tuple[int, ...]:
        """The tokens of a prompt, as a generation would compute them."""
        event = await self._ask(Tokenize(_new_id("tok"), parts))
        assert isinstance(event, Tokenized)
        return event.tokens

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens, control tokens written out. Raises InvalidRequest for one that is none."""
        event = await self._ask(Detokenize(_new_id("detok"), tuple(tokens)))
        assert isinstance(event, Detokenized)
        return event.text

    async def _ask(self, message: Tokenize | Detokenize) -> object:
        engine = await self._supervisor.engine()
        async with engine.submit(message) as stream:
            (event,) = await stream.next_events()
        if isinstance(event, Failed):
            raise ENGINE_ERRORS.get(event.code, EngineFailed)(event.message, param=event.param)
        return event

    def _completion(
        self,
        prefix: str,
        request: GenerationFields,
        context: RequestContext,
        prompts: Sequence[Prompt | tuple[PromptPart, ...]],
        max_tokens: int | None,
        top_logprobs: int | None,
        echo: tuple[str, ...] = (),
    ) -> Completion:
        completion_id = _new_id(prefix)
        params = sampling_params(request)
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
                scope=context.scope,
                key=context.tenant,
                weight=context.weight,
                is_batch=request.service_tier == "flex",
            )
            generations.append(Generation(self._supervisor, self._activity, context, submit))
        return Completion(
            id=completion_id,
            model=self._model.name,
            fingerprint=self._fingerprint,
            created_s=int(time.time()),
            service_tier=request.served_tier,
            generations=tuple(generations),
            n=request.n or 1,
            echo=echo,
        )


def sampling_params(fields: SamplingFields) -> SamplingParams:
    """The engine's sampling parameters; those left out take the engine's defaults."""
    given = fields.model_dump(include=set(SamplingFields.model_fields), exclude_none=True)
    if "logit_bias" in given:
        given["logit_bias"] = {int(token): bias for token, bias in given["logit_bias"].items()}
    if "dry_sequence_breakers" in given:
        given["dry_sequence_breakers"] = tuple(given["dry_sequence_breakers"])
    return SamplingParams(**given)


def _new_id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex}"


def _parts(prompt: Prompt | tuple[PromptPart, ...]) -> tuple[PromptPart, ...]:
    """A raw text is the app's own template: its control tokens are recognised."""
    if isinstance(prompt, str):
        return (PromptPart(prompt, True),)
    return prompt if isinstance(prompt, tuple) else ()


def _template_message(message: Message) -> dict[str, str]:
    rendered = {"role": _ROLES.get(message.role, message.role), "content": message.text}
    if message.name is not None:
        rendered["name"] = message.name
    return rendered
