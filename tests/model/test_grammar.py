"""Answers that follow a grammar, with the real model and real vocabularies."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from llguidance import LLMatcher

from appliance.engine.llama.backend import LlamaBackend
from appliance.engine.llama.constraint import grammar_vocabulary
from appliance.engine.llama.model import Model
from appliance.engine.messages import Piece, PromptPart, SequenceFinished, Submit
from appliance.engine.params import SamplingParams
from tests.model.engines import engine, run, texts

pytestmark = pytest.mark.model

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 2, "maxItems": 3},
        "straße": {
            "type": "object",
            "properties": {"nr": {"type": "integer", "minimum": 1, "maximum": 99}},
            "required": ["nr"],
        },
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
SCHEMA["properties"]["straße"]["additionalProperties"] = False
GRAMMAR = LLMatcher.grammar_from_json_schema(json.dumps(SCHEMA), overrides={"whitespace_flexible": False})
PROMPT = (PromptPart("<|im_start|>user\nDescribe a person.<|im_end|>\n<|im_start|>assistant\n", True),)


def describe(name: str, *, grammar: str = GRAMMAR, max_tokens: int = 200, **fields: object) -> Submit:
    params = SamplingParams(**fields)  # type: ignore[arg-type]
    return Submit(name, parts=PROMPT, grammar=grammar, max_tokens=max_tokens, params=params)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"temperature": 1.5, "top_p": 0.5, "min_p": 0.05},
        {"temperature": 0.8, "repeat_penalty": 1.3, "presence_penalty": 1.0},
        {"mirostat": 1},
        {"mirostat": 2},
        {"typical_p": 0.5, "top_k": 0},
        {"xtc_probability": 1.0, "xtc_threshold": 0.05, "dry_multiplier": 2.0},
        {"temperature": 0.0, "frequency_penalty": 1.0},
    ],
    ids=str,
)
def test_whatever_samples_the_answer_is_what_the_schema_wants(backend: LlamaBackend, fields: dict[str, float]) -> None:
    core = engine(backend)
    results = run(core, *(describe(f"{number}", **fields) for number in range(2)))
    for events in results.values():
        text = "".join(event.text for event in events if isinstance(event, Piece))
        (reason,) = [event.finish_reason for event in events if isinstance(event, SequenceFinished)]
        assert reason == "stop"
        jsonschema.validate(json.loads(text), SCHEMA)


def test_the_same_seed_gives_the_same_text_beside_whatever(backend: LlamaBackend) -> None:
    (alone,) = texts(engine(backend), describe("alone", seed=7))
    both = texts(engine(backend), describe("other", seed=8), describe("same", seed=7))
    assert both[1] == alone != both[0]


def test_log_probabilities_are_those_of_the_model_not_of_what_the_grammar_left(backend: LlamaBackend) -> None:
    def first(grammar: str) -> tuple[tuple[bytes, float], ...]:
        message = Submit(
            "r",
            parts=PROMPT,
            grammar=grammar,
            max_tokens=1,
            top_logprobs=3,
            params=SamplingParams(temperature=0.0),
        )
        (piece,) = [event for event in run(engine(backend), message)["r"] if isinstance(event, Piece)]
        return piece.logprobs[0].top

    free, constrained = first(""), first(GRAMMAR)
    assert [token for token, _ in free] == [token for token, _ in constrained]
    assert [p for _, p in constrained] == pytest.approx([p for _, p in free], abs=1e-3)


def test_what_is_forced_is_the_text_that_the_grammar_wants_in_a_sentencepiece_vocabulary(spm_vocab: Path) -> None:
    """Which puts a space before each text that it is given."""
    with Model(str(spm_vocab), vocab_only=True) as model:
        vocabulary = grammar_vocabulary(model)
        matcher = LLMatcher(vocabulary, 'start: "{\\"name\\": \\"" /[a-z]+/ "\\"}"', log_level=0)
        forced = b"".join(map(model.token_bytes, matcher.compute_ff_tokens()))
        assert forced
        assert b'{"name": "'.startswith(forced)
        assert not vocabulary.decode_bytes(vocabulary.tokenize_str("\n{")).startswith(b" ")
