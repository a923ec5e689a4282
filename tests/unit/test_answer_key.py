"""Which fields of a request are in the key of its answer: each field has a line here, or a test fails."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from appliance.cache.key import ModelIdentity, answer_key
from appliance.engine.messages import PromptPart, Submit
from appliance.engine.params import SamplingParams
from appliance.schemas.chat import ChatRequest
from appliance.schemas.completions import CompletionRequest
from appliance.schemas.formats import NamedSchema, ResponseFormat
from appliance.schemas.messages import CalledFunction, Message, TextPart, ToolCall
from appliance.schemas.sampling import StreamOptions
from appliance.schemas.tools import (
    AllowedTools,
    FunctionDefinition,
    FunctionName,
    FunctionTool,
    NamedTool,
    ToolChoice,
)
from appliance.service.inference import Inference
from tests.unit.request_keys import SEEDED, TEMPLATE, Keys, idle_inference, keys_of


@dataclasses.dataclass(frozen=True)
class Line:
    """Two values of a field, with other fields ``beside`` that make it matter."""

    one: Any
    other: Any
    is_in_key: bool
    beside: dict[str, Any]


def changes(one: Any, other: Any, **beside: Any) -> Line:
    """Requests with the one and the other may have different answers."""
    return Line(one, other, True, beside)


def same(one: Any, other: Any, **beside: Any) -> Line:
    """Requests with the one and the other have the same answer."""
    return Line(one, other, False, beside)


FUNCTIONS = [{"name": name, "parameters": {}} for name in "xy"]
TOOLS = [{"type": "function", "function": function} for function in FUNCTIONS]
CALL: dict[str, Any] = {"id": "c", "type": "function", "function": {"name": "x", "arguments": "{}"}}
SAMPLING = {
    "temperature": changes(0.5, 0.7),
    "top_p": changes(0.5, 0.9),
    "top_k": changes(20, 40),
    "min_p": changes(0.1, 0.2),
    "typical_p": changes(0.5, 0.9),
    "repeat_penalty": changes(1.1, 1.2),
    "repeat_last_n": changes(32, 64, repeat_penalty=1.1),
    "presence_penalty": changes(0.5, -0.5),
    "frequency_penalty": changes(0.5, -0.5),
    "dry_multiplier": changes(0.5, 0.8),
    "dry_base": changes(1.5, 1.75, dry_multiplier=0.8),
    "dry_allowed_length": changes(2, 3, dry_multiplier=0.8),
    "dry_penalty_last_n": changes(-1, 64, dry_multiplier=0.8),
    "dry_sequence_breakers": changes(["."], ["\n"], dry_multiplier=0.8),
    "xtc_probability": changes(0.5, 1.0),
    "xtc_threshold": changes(0.1, 0.2, xtc_probability=0.5),
    "mirostat": changes(1, 2),
    "mirostat_tau": changes(4.0, 5.0, mirostat=2),
    "mirostat_eta": changes(0.1, 0.2, mirostat=2),
    "logit_bias": changes({"97": 1.0}, {"97": 2.0}),
    "seed": changes(1, 2),
}
GENERATION = {
    **SAMPLING,
    "model": changes("a", "b"),
    "stream": same(True, False),
    "stream_options": same({"include_usage": True}, None, stream=True),
    "n": changes(1, 2),
    "stop": changes("x", "y"),
    "max_tokens": changes(3, 4),
    "ignore_eos": changes(True, False),
    "speculation": same(True, False),
    "response_format": changes({"type": "json_object"}, {"type": "text"}),
    "grammar": changes('start: "a"', 'start: "b"'),
    "regex": changes("a", "b"),
    "service_tier": same("flex", "default"),
}
TABLES: dict[type, dict[str, Line]] = {
    ChatRequest: {
        **GENERATION,
        "messages": changes([{"role": "user", "content": "x"}], [{"role": "user", "content": "y"}]),
        "max_completion_tokens": changes(3, 4),
        "logprobs": changes(True, False),
        "top_logprobs": changes(0, 1, logprobs=True),
        "tools": changes(TOOLS, TOOLS[:1]),
        "tool_choice": changes("required", "auto", tools=TOOLS),
        "parallel_tool_calls": changes(True, False, tools=TOOLS),
        "functions": changes(FUNCTIONS, FUNCTIONS[:1]),
        "function_call": changes({"name": "x"}, "auto", functions=FUNCTIONS),
    },
    CompletionRequest: {
        **GENERATION,
        "prompt": changes("x", "y"),
        "echo": changes(True, False),
        "logprobs": changes(0, 1),
        "suffix": same("", None),
        "best_of": same(1, None),
    },
    ResponseFormat: {
        "type": changes("json_object", "text"),
        "json_schema": changes(
            {"name": "x", "schema": {"type": "null"}}, {"name": "x", "schema": {}}, type="json_schema"
        ),
    },
    NamedSchema: {
        "name": same("x", "y"),
        "description": same("x", None),
        "strict": same(True, False),
        "definition": changes({"type": "null"}, {"type": "boolean"}),
    },
    Message: {
        "role": changes("user", "assistant"),
        "content": changes("x", "y"),
        "name": changes("x", "y"),
        "tool_calls": changes([CALL], [{**CALL, "id": "z"}], role="assistant"),
        "tool_call_id": changes("c", "d", role="tool"),
        "function_call": changes(CALL["function"], {**CALL["function"], "name": "y"}, role="assistant"),
    },
    ToolCall: {
        "id": changes("c", "d"),
        "type": same("function", "function"),  # it has no other value
        "function": changes(CALL["function"], {**CALL["function"], "name": "y"}),
    },
    CalledFunction: {
        "name": changes("x", "y"),
        "arguments": changes("{}", '{"a": 1}'),
    },
    FunctionTool: {
        "type": same("function", "function"),  # it has no other value
        "function": changes(FUNCTIONS[0], FUNCTIONS[1]),
    },
    FunctionDefinition: {
        "name": changes("x", "y"),
        "description": changes("x", "y"),
        "parameters": changes({}, {"properties": {"a": {"type": "integer"}}}),
        "strict": same(True, False),  # a schema that can be kept to is kept to
    },
    ToolChoice: {
        "type": changes("auto", "required"),
        "function": changes({"name": "x"}, {"name": "y"}, type="function"),
        "allowed_tools": changes(
            {"mode": "auto", "tools": TOOLS[:1]}, {"mode": "auto", "tools": TOOLS}, type="allowed_tools"
        ),
    },
    FunctionName: {"name": changes("x", "y")},
    NamedTool: {
        "type": same("function", "function", function={"name": "x"}),  # it has no other value
        "function": changes({"name": "x"}, {"name": "y"}),
    },
    AllowedTools: {
        "mode": changes("auto", "required", tools=TOOLS),
        "tools": changes(TOOLS[:1], TOOLS, mode="auto"),
    },
    TextPart: {
        "type": same("text", "text"),  # it has no other value
        "text": changes("x", "y"),
    },
    StreamOptions: {"include_usage": same(True, False)},
    Submit: {
        "request_id": same("x", "y"),
        "parts": changes((PromptPart("x", True),), (PromptPart("y", True),)),
        "tokens": changes((1,), (2,), parts=()),
        "params": changes(SamplingParams(temperature=0.5), SamplingParams(temperature=0.7)),
        "n": changes(1, 2),
        "max_tokens": changes(None, 1),
        "stop": changes((), ("x",)),
        "top_logprobs": changes(None, 0),
        "ignore_eos": changes(True, False),
        "speculation": same(True, False),
        "echo": changes(True, False),
        "grammar": changes("", "start: /a+/"),
        "adapter": changes("", "harbour-0123456789ab"),
        "shown_tokens": changes((), ("[TOOL_CALLS]",)),
        "scope": changes("x", "y"),
        "key": same("x", "y"),
        "weight": same(1.0, 2.0),
        "is_batch": same(True, False),
    },
    PromptPart: {"text": changes("x", "y"), "is_template": changes(True, False)},
    SamplingParams: {
        **SAMPLING,
        "dry_sequence_breakers": changes((".",), ("\n",), dry_multiplier=0.8),
        "logit_bias": changes({97: 1.0}, {97: 2.0}),
    },
    ModelIdentity: {
        "gguf_sha256": changes("x", "y"),
        "template_sha256": changes("x", "y"),
        "engine_build": changes("x", "y"),
        "type_k": changes("f16", "q8_0"),
        "type_v": changes("f16", "q8_0"),
        "adapter_sha256": changes("", "2" * 64),
        "adapter_scale": changes(1.0, 0.5),
    },
}

IDENTITY = ModelIdentity("0" * 64, "1" * 64, "build", "f16", "f16")
SUBMIT = Submit("r", parts=(PromptPart("x", True),), params=SamplingParams(seed=1))


@pytest.fixture(scope="module")
def inference(tmp_path_factory: pytest.TempPathFactory) -> Inference:
    return idle_inference(tmp_path_factory.mktemp("models"))


def of_message(inference: Inference, fields: Mapping[str, Any]) -> Keys:
    """That it may answer, two calls stand before it."""
    calls = {"role": "assistant", "tool_calls": [CALL, {**CALL, "id": "d"}]}
    message = {"role": "user", "content": "x", **fields}
    return keys_of(inference, ChatRequest, {**SEEDED, "messages": [calls, message]})


def of_call(inference: Inference, fields: Mapping[str, Any]) -> Keys:
    return of_message(inference, {"role": "assistant", "tool_calls": [{**CALL, **fields}]})


def of_tool(inference: Inference, fields: Mapping[str, Any]) -> Keys:
    return keys_of(inference, ChatRequest, {**SEEDED, "tools": [{**TOOLS[0], **fields}]})


def of_choice(inference: Inference, fields: Mapping[str, Any]) -> Keys:
    return keys_of(inference, ChatRequest, {**SEEDED, "tools": TOOLS, "tool_choice": fields})


def of_part(inference: Inference, fields: Mapping[str, Any]) -> Keys:
    return of_message(inference, {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "x", **fields}]})


def of_schema(inference: Inference, fields: Mapping[str, Any]) -> Keys:
    named = {"name": "x", "schema": {"type": "null"}, **fields}
    named["schema"] = named.pop("definition", named["schema"])
    form = {"type": "json_schema", "json_schema": named}
    return keys_of(inference, ChatRequest, {**SEEDED, "response_format": form})


def of_submit(inference: Inference, fields: Mapping[str, Any]) -> Keys:
    return (answer_key(IDENTITY, msgspec.structs.replace(SUBMIT, **fields)),)


# How a field of each kind gets into a request.
BUILDERS: dict[type, Callable[[Inference, Mapping[str, Any]], Keys]] = {
    ChatRequest: lambda inference, fields: keys_of(inference, ChatRequest, {**SEEDED, **fields}),
    CompletionRequest: lambda inference, fields: keys_of(inference, CompletionRequest, {**SEEDED, **fields}),
    Message: of_message,
    TextPart: of_part,
    ResponseFormat: lambda inference, fields: keys_of(
        inference, ChatRequest, {**SEEDED, "response_format": {"type": "text", **fields}}
    ),
    NamedSchema: of_schema,
    ToolCall: of_call,
    CalledFunction: lambda inference, fields: of_call(inference, {"function": {**CALL["function"], **fields}}),
    FunctionTool: of_tool,
    FunctionDefinition: lambda inference, fields: of_tool(inference, {"function": {**FUNCTIONS[0], **fields}}),
    ToolChoice: of_choice,
    FunctionName: lambda inference, fields: of_choice(inference, {"type": "function", "function": fields}),
    NamedTool: lambda inference, fields: of_choice(inference, {"type": "function", **fields}),
    AllowedTools: lambda inference, fields: of_choice(inference, {"type": "allowed_tools", "allowed_tools": fields}),
    StreamOptions: lambda inference, fields: keys_of(
        inference, ChatRequest, {**SEEDED, "stream": True, "stream_options": fields}
    ),
    Submit: of_submit,
    PromptPart: lambda inference, fields: of_submit(
        inference, {"parts": (PromptPart(**{"text": "x", "is_template": True, **fields}),)}
    ),
    SamplingParams: lambda inference, fields: of_submit(inference, {"params": SamplingParams(**{**SEEDED, **fields})}),
    ModelIdentity: lambda inference, fields: (answer_key(dataclasses.replace(IDENTITY, **fields), SUBMIT),),
}


def fields_of(kind: type) -> set[str]:
    if issubclass(kind, BaseModel):
        return set(kind.model_fields)
    if issubclass(kind, msgspec.Struct):
        return set(kind.__struct_fields__)
    return {field.name for field in dataclasses.fields(kind)}


def kinds_in(annotation: Any) -> Iterator[type]:
    """The schemas that an annotation names, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel | msgspec.Struct):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from kinds_in(argument)


LINES = [
    pytest.param(kind, name, line, id=f"{kind.__name__}.{name}")
    for kind, table in TABLES.items()
    for name, line in table.items()
]


@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: kind.__name__)
def test_every_field_has_a_line(kind: type) -> None:
    assert set(TABLES[kind]) == fields_of(kind), "say in TABLES whether the field is in the key"
    nested = {found for hint in typing.get_type_hints(kind).values() for found in kinds_in(hint)}
    assert nested <= set(TABLES), "say in TABLES which of its fields are in the key"


def test_a_part_of_a_content_is_text_and_nothing_else() -> None:
    assert typing.get_args(TextPart.model_fields["type"].annotation) == ("text",)


@pytest.mark.parametrize(("kind", "name", "line"), LINES)
def test_a_field_is_in_the_key_if_it_can_change_the_answer(
    inference: Inference, kind: type, name: str, line: Line
) -> None:
    one, other = (BUILDERS[kind](inference, {**line.beside, name: value}) for value in (line.one, line.other))
    assert (one != other) is line.is_in_key


@pytest.mark.parametrize("name", sorted(SAMPLING))
def test_a_sampling_field_left_out_is_its_default(inference: Inference, name: str) -> None:
    if name == "seed":
        return  # without one, another is drawn each time
    default = getattr(SamplingParams(), name)
    given = {str(token): bias for token, bias in default.items()} if isinstance(default, dict) else default
    given = list(given) if isinstance(given, tuple) else given
    beside = {**SEEDED, **SAMPLING[name].beside}
    keys = partial(keys_of, inference, ChatRequest)
    assert keys({**beside, name: given}) == keys(beside) == keys({**beside, name: None})
    assert keys({**beside, name: SAMPLING[name].one}) != keys({**beside, name: SAMPLING[name].other})


def test_each_prompt_of_a_request_has_the_key_of_a_request_of_its_own(inference: Inference) -> None:
    together = keys_of(inference, CompletionRequest, {"prompt": ["x", "y", "x"], **SEEDED})
    alone = [keys_of(inference, CompletionRequest, {"prompt": text, **SEEDED})[0] for text in ("x", "y")]
    assert together == (alone[0], alone[1], alone[0])


def test_a_scope_has_keys_of_its_own(inference: Inference) -> None:
    scopes = ["", "admin", "key:1", "key:2", "scope:key:1"]
    assert len({keys_of(inference, ChatRequest, SEEDED, scope=scope) for scope in scopes}) == len(scopes)


def test_the_template_of_an_operator_is_in_the_key(inference: Inference, tmp_path: Path) -> None:
    model = inference.resolve("a")
    stored = msgspec.structs.replace(model.stored, template_override=TEMPLATE + " ")
    other = dataclasses.replace(model, spec=dataclasses.replace(model.spec, stored=stored))
    assert other.identity != model.identity
    assert dataclasses.replace(other.identity, template_sha256=model.identity.template_sha256) == model.identity
