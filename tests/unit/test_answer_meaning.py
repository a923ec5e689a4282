"""Ways to ask for the same thing have one key, things that only look alike have two."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.schemas.chat import ChatRequest
from appliance.schemas.completions import CompletionRequest
from appliance.service.inference import Inference
from tests.unit.request_keys import SEEDED, idle_inference, keys_of


@pytest.fixture(scope="module")
def inference(tmp_path_factory: pytest.TempPathFactory) -> Inference:
    return idle_inference(tmp_path_factory.mktemp("models"))


GREEDY: dict[str, Any] = {"temperature": 0}
SAME_MEANING: dict[str, tuple[type, dict[str, Any], dict[str, Any]]] = {
    "order of fields": (ChatRequest, {"top_k": 3, "top_p": 0.5, **SEEDED}, {**SEEDED, "top_p": 0.5, "top_k": 3}),
    "default model": (ChatRequest, SEEDED, {"model": "a", **SEEDED}),
    "version of the model": (ChatRequest, {"model": "a", **SEEDED}, {"model": "a@ca978112ca1b", **SEEDED}),
    "one answer": (ChatRequest, SEEDED, {"n": 1, **SEEDED}),
    "max_tokens by its newer name": (
        ChatRequest, {"max_tokens": 9, **SEEDED}, {"max_completion_tokens": 9, **SEEDED},
    ),
    "the newer name goes before": (
        ChatRequest, {"max_tokens": 1, "max_completion_tokens": 9, **SEEDED}, {"max_completion_tokens": 9, **SEEDED},
    ),
    "older endpoint's max_tokens": (CompletionRequest, {"max_tokens": 16, **SEEDED}, SEEDED),
    "content as one part": (
        ChatRequest,
        {"messages": [{"role": "user", "content": "x"}], **SEEDED},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}], **SEEDED},
    ),
    "developer is system": (
        ChatRequest,
        {"messages": [{"role": "developer", "content": "x"}], **SEEDED},
        {"messages": [{"role": "system", "content": "x"}], **SEEDED},
    ),
    "stop as a list": (ChatRequest, {"stop": "x", **SEEDED}, {"stop": ["x"], **SEEDED}),
    "stop in another order": (ChatRequest, {"stop": ["x", "y"], **SEEDED}, {"stop": ["y", "x"], **SEEDED}),
    "stop twice": (ChatRequest, {"stop": ["x", "x"], **SEEDED}, {"stop": "x", **SEEDED}),
    "empty stop": (ChatRequest, {"stop": [], **SEEDED}, {"stop": "", **SEEDED}),
    "order of biases": (
        ChatRequest,
        {"logit_bias": {"9": 1, "10": 2, "1": 3}, **SEEDED},
        {"logit_bias": {"1": 3, "9": 1, "10": 2}, **SEEDED},
    ),
    "bias of 0": (ChatRequest, {"logit_bias": {"1": 0, "2": 1}, **SEEDED}, {"logit_bias": {"2": 1}, **SEEDED}),
    "whole numbers": (ChatRequest, {"temperature": 2, "top_p": 1, **SEEDED}, {"temperature": 2.0, **SEEDED}),
    "no logprobs": (ChatRequest, SEEDED, {"logprobs": False, **SEEDED}),
    "logprobs alone": (ChatRequest, {"logprobs": True, **SEEDED}, {"logprobs": True, "top_logprobs": 0, **SEEDED}),
    "seeds where nothing is drawn": (ChatRequest, {**GREEDY, "seed": 1}, {**GREEDY, "seed": 2}),
    "cuts where nothing is drawn": (ChatRequest, GREEDY, {**GREEDY, "top_k": 3, "top_p": 0.5, "mirostat": 2}),
    "cold is 0": (ChatRequest, GREEDY, {"temperature": 0.00001}),
    "fields we don't know": (ChatRequest, SEEDED, {"user": "somebody", "metadata": {}, "store": True, **SEEDED}),
    "a prompt in a list": (CompletionRequest, {"prompt": "x", **SEEDED}, {"prompt": ["x"], **SEEDED}),
    "tokens in a list": (CompletionRequest, {"prompt": [1], **SEEDED}, {"prompt": [[1]], **SEEDED}),
}  # fmt: skip
OTHER_MEANING: dict[str, tuple[type, dict[str, Any], dict[str, Any]]] = {
    "a seed is given where nothing is drawn": (ChatRequest, GREEDY, {**GREEDY, "seed": 1}),
    "the seed 0": (ChatRequest, GREEDY, {**GREEDY, "seed": 0}),
    "penalties where nothing is drawn": (ChatRequest, GREEDY, {**GREEDY, "presence_penalty": 0.5}),
    "biases where nothing is drawn": (ChatRequest, GREEDY, {**GREEDY, "logit_bias": {"1": 1}}),
    "text or tokens": (CompletionRequest, {"prompt": "x", **SEEDED}, {"prompt": [120], **SEEDED}),
    "no end": (ChatRequest, SEEDED, {"max_tokens": 1 << 30, **SEEDED}),
    "a stop of two strings": (ChatRequest, {"stop": "xy", **SEEDED}, {"stop": ["x", "y"], **SEEDED}),
    "case": (ChatRequest, {"stop": "x", **SEEDED}, {"stop": "X", **SEEDED}),
    "spaces": (CompletionRequest, {"prompt": "x", **SEEDED}, {"prompt": "x ", **SEEDED}),
    "composed characters": (CompletionRequest, {"prompt": "\u00e9", **SEEDED}, {"prompt": "e\u0301", **SEEDED}),
    "who said it": (
        ChatRequest,
        {"messages": [{"role": "user", "content": "x;user::y"}], **SEEDED},
        {"messages": [{"role": "assistant", "content": "x;user::y"}], **SEEDED},
    ),
    "a control token or its name": (
        ChatRequest,
        {"messages": [{"role": "user", "content": "<|end|>"}], **SEEDED},
        {"messages": [{"role": "user", "content": "<|end |>"}], **SEEDED},
    ),
}


@pytest.mark.parametrize("name", SAME_MEANING)
def test_what_means_the_same_has_one_key(inference: Inference, name: str) -> None:
    kind, one, other = SAME_MEANING[name]
    assert keys_of(inference, kind, one) == keys_of(inference, kind, other)


@pytest.mark.parametrize("name", OTHER_MEANING)
def test_what_may_be_answered_differently_has_two_keys(inference: Inference, name: str) -> None:
    kind, one, other = OTHER_MEANING[name]
    assert keys_of(inference, kind, one) != keys_of(inference, kind, other)
