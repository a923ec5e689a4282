"""Chat completions: from a conversation to a running generation."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

from appliance.chat.template import ChatTemplate
from appliance.engine.messages import Submit
from appliance.engine.params import SamplingParams
from appliance.errors import InvalidRequest, ModelNotFound
from appliance.models.store import StoredModel
from appliance.schemas.chat import ChatRequest, Message, SamplingFields
from appliance.service.generation import Generation
from appliance.supervisor.supervisor import Supervisor

# A template knows OpenAI's older name of the role only.
_ROLES = {"developer": "system"}


@dataclass(frozen=True, slots=True)
class ChatCompletion:
    """A chat completion that was started, and what its answer repeats of the request."""

    id: str
    model: str
    created_s: int
    generation: Generation


class ChatService:
    def __init__(self, supervisor: Supervisor, model: StoredModel) -> None:
        self._supervisor = supervisor
        self._model = model
        header = model.record.header
        self._template = None
        if header.chat_template is not None:
            self._template = ChatTemplate(
                header.chat_template,
                bos_token=header.bos_token,
                eos_token=header.eos_token,
                control_tokens=header.control_tokens,
            )

    def start(self, request: ChatRequest) -> ChatCompletion:
        """Renders the prompt and prepares its generation, which runs when its answer or events are awaited.

        Raises:
            ModelNotFound: another model than the one that is served is asked for.
            InvalidRequest: the model's template refuses the conversation.
        """
        if request.model and request.model != self._model.name:
            raise ModelNotFound(
                f"the model '{request.model}' does not exist; there are: {self._model.name}", param="model"
            )
        if self._template is None:
            raise InvalidRequest(f"the model {self._model.name} has no chat template", param="messages")
        completion_id = f"chatcmpl-{uuid.uuid4().hex}"
        max_tokens = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
        stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
        submit = Submit(
            request_id=completion_id,
            parts=self._template.render([_template_message(message) for message in request.messages]),
            params=sampling_params(request),
            n=request.n or 1,
            max_tokens=max_tokens,
            stop=tuple(text for text in stop if text),
            top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            ignore_eos=request.ignore_eos,
        )
        generation = Generation(self._supervisor, submit)
        return ChatCompletion(completion_id, self._model.name, int(time.time()), generation)


def sampling_params(fields: SamplingFields) -> SamplingParams:
    """The engine's sampling parameters; those left out take the engine's defaults."""
    given = fields.model_dump(include=set(SamplingFields.model_fields), exclude_none=True)
    if "logit_bias" in given:
        given["logit_bias"] = {int(token): bias for token, bias in given["logit_bias"].items()}
    if "dry_sequence_breakers" in given:
        given["dry_sequence_breakers"] = tuple(given["dry_sequence_breakers"])
    return SamplingParams(**given)


def _template_message(message: Message) -> dict[str, str]:
    rendered = {"role": _ROLES.get(message.role, message.role), "content": message.text}
    if message.name is not None:
        rendered["name"] = message.name
    return rendered
