"""From a request's fields to the keys of its answers, by the way that every request takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from appliance.cache.key import answer_key
from appliance.models.store import ModelStore
from appliance.schemas.chat import ChatRequest
from appliance.schemas.completions import CompletionRequest
from appliance.service.activity import Activity
from appliance.service.answers import Answers
from appliance.service.catalog import Catalog
from appliance.service.context import RequestContext
from appliance.service.inference import Inference
from appliance.service.metrics import Metrics
from appliance.settings import Settings
from appliance.supervisor.supervisor import Supervisor
from tests.fake_models import HEADER, publish_fakes

Keys = tuple[bytes, ...]

# All of a conversation, calls and their ids too.
TEMPLATE = """{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role }}:{{ m.name }}:
{{- m.tool_call_id }}:{{ m.content }}{% for call in m.tool_calls or [] %}<call>
{"id": "{{ call.id }}", "name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</call>{% endfor %};{% endfor %}"""
SEEDED: dict[str, Any] = {"seed": 1}


def idle_inference(folder: Path) -> Inference:
    """With the models a and b, of the same header; nothing of it runs."""
    header = msgspec.structs.replace(HEADER, chat_template=TEMPLATE)
    publish_fakes(folder, {"a": header, "b": header})
    config = Settings(models_dir=folder, models_lock=folder / "models.lock", state_dir=folder)
    metrics = Metrics(dict)
    nothing_runs = cast(Supervisor, None)
    answers = Answers(nothing_runs, None, metrics)
    return Inference(nothing_runs, Catalog(config, ModelStore(folder)), Activity(metrics), answers)


def keys_of(inference: Inference, kind: type, fields: Mapping[str, Any], *, scope: str = "") -> Keys:
    """Those of a request's prompts."""
    context = RequestContext("r", arrived_at=0.0, scope=scope)
    if kind is ChatRequest:
        body = {"messages": [{"role": "user", "content": "x"}], **fields}
        completion = inference.chat(ChatRequest.model_validate(body), context)
    else:
        completion = inference.complete(CompletionRequest.model_validate({"prompt": "x", **fields}), context)
    model = inference.resolve(completion.model)
    return tuple(answer_key(model.identity, generation.submit) for generation in completion.generations)
