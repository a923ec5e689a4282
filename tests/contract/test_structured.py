"""Structured outputs with the official client against a live server with the real model."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel, Field

from tests.structured.schemas import Owner, Solution, Weather

MODEL = "smollm2-135m-instruct"
ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me something as JSON."}]


class Room(BaseModel):
    name: Annotated[str, Field(max_length=12)]
    windows: Annotated[int, Field(ge=0, le=20)]


class House(BaseModel):
    """Not closed, with a default: as models are written that were not made for this."""

    colour: Literal["red", "white"]
    rooms: Annotated[list[Room], Field(max_length=2)]
    is_sold: bool = False


def by(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    body = {"messages": ASK, "max_tokens": 200, "temperature": 1, "seed": 1, **fields}
    return client.chat.completions.create(model=MODEL, **body)


@pytest.mark.parametrize("kind", [Weather, Solution, Owner, House])
def test_parse_with_nested_models(client: openai.OpenAI, kind: type[BaseModel]) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=ASK, response_format=kind, max_tokens=300, temperature=1, seed=1
    )
    assert isinstance(answer.choices[0].message.parsed, kind)


def test_a_stream_is_parsed_at_its_end(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=ASK, response_format=Weather, max_tokens=300, temperature=1, seed=1
    ) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert len(pieces) > 1
    assert isinstance(final.choices[0].message.parsed, Weather)
    assert "".join(pieces) == final.choices[0].message.content


def test_a_schema_as_a_dict(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"]}
    text = ask(client, response_format=by({**schema, "additionalProperties": False})).choices[0].message.content
    assert json.loads(text)["n"] <= 9


def test_any_object(client: openai.OpenAI) -> None:
    choice = ask(client, response_format={"type": "json_object"}, max_tokens=400).choices[0]
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)
    assert choice.message.content.startswith("{")


def test_json_that_is_cut_off_ends_with_length(client: openai.OpenAI) -> None:
    choice = ask(client, response_format=by(Solution.model_json_schema()), max_tokens=5).choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.content.startswith('{"steps":[')
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model=MODEL, messages=ASK, response_format=Solution, max_tokens=5)


def test_the_extensions(client: openai.OpenAI) -> None:
    answer = ask(client, extra_body={"regex": "(red|green), \\d{2}"})
    assert answer.choices[0].message.content[:-2] in ("red, ", "green, ")
    text = client.completions.create(
        model=MODEL, prompt="Yes or no?", max_tokens=8, extra_body={"grammar": 'root ::= "yes" | "no"'}
    )
    assert text.choices[0].text in ("yes", "no")


@pytest.mark.parametrize(
    ("fields", "param", "word"),
    [
        ({"response_format": by({"type": "array", "uniqueItems": True})}, "response_format", "uniqueItems"),
        ({"response_format": by({"type": "string", "format": "regex"})}, "response_format", "format"),
        ({"response_format": by({"type": "string", "pattern": "(?!a)"})}, "response_format", "pattern"),
        ({"response_format": by({"$ref": "https://example.com"})}, "response_format", r"\$ref"),
        ({"response_format": by({"type": "colour"})}, "response_format", "no JSON schema"),
        ({"response_format": by({}), "stop": "x"}, None, "stop"),
        ({"extra_body": {"grammar": "start: nothing"}}, "grammar", "nothing"),
        ({"extra_body": {"regex": "("}}, "regex", "unclosed"),
    ],
)
def test_what_can_not_be_kept_is_named(
    client: openai.OpenAI, fields: dict[str, Any], param: str | None, word: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=word) as refused:
        ask(client, **fields)
    assert refused.value.param == param
