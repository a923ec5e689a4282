from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.gateway import Gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def complete(gateway: Gateway, prompt: Any = "a", **fields: Any) -> httpx.Response:
    return await gateway.http.post("/v1/completions", json={"prompt": prompt, "max_tokens": 3, **fields})


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line.startswith("data: {")]


async def test_a_text_is_continued(gateway: Gateway) -> None:
    body = (await complete(gateway)).json()
    assert (body["object"], body["model"]) == ("text_completion", "fake")
    assert body["choices"] == [{"index": 0, "text": "bcd", "logprobs": None, "finish_reason": "length"}]
    assert body["usage"]["completion_tokens"] == 3


async def test_tokens_are_continued(gateway: Gateway) -> None:
    assert (await complete(gateway, [97])).json()["choices"][0]["text"] == "bcd"


@pytest.mark.parametrize("prompt", [["a", "m"], [[97], [109]]])
async def test_choices_of_several_prompts_are_numbered_through(gateway: Gateway, prompt: Any) -> None:
    body = (await complete(gateway, prompt, n=2)).json()
    assert [(c["index"], c["text"]) for c in body["choices"]] == [(0, "bcd"), (1, "bcd"), (2, "nop"), (3, "nop")]
    assert body["usage"]["completion_tokens"] == 12


async def test_several_prompts_stream_side_by_side(gateway: Gateway) -> None:
    text = (await complete(gateway, ["a", "m"], stream=True, stream_options={"include_usage": True})).text
    found = events(text)
    texts = ["", ""]
    for event in found:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == ["bcd", "nop"]
    assert found[-1]["usage"]["completion_tokens"] == 6
    assert text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("prompt", ["xa", [120, 97]])
async def test_echo_puts_the_prompt_before_the_text(gateway: Gateway, prompt: Any) -> None:
    assert (await complete(gateway, prompt, echo=True)).json()["choices"][0]["text"] == "xabcd"
    streamed = events((await complete(gateway, prompt, echo=True, stream=True)).text)
    assert "".join(event["choices"][0]["text"] for event in streamed) == "xabcd"


async def test_logprobs_have_openai_s_older_shape(gateway: Gateway) -> None:
    body = (await complete(gateway, logprobs=0)).json()
    expected = {
        "tokens": ["b", "c", "d"],
        "token_logprobs": [-0.5] * 3,
        "top_logprobs": [{}, {}, {}],
        "text_offset": [0, 1, 2],
    }
    assert body["choices"][0]["logprobs"] == expected
    streamed = events((await complete(gateway, logprobs=0, stream=True)).text)
    offsets = [event["choices"][0]["logprobs"]["text_offset"] for event in streamed if event["choices"][0]["logprobs"]]
    assert offsets == [[0], [1], [2]]


async def test_one_bad_prompt_of_several_fails_the_request_and_frees_the_others(gateway: Gateway) -> None:
    response = await complete(gateway, ["a", "x" * 300], max_tokens=100)
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert not gateway.activity.running()


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"prompt": None}, "prompt", "want"),
        ({"prompt": []}, "prompt", "at least 1"),
        ({"prompt": [[]]}, "prompt", "at least 1"),
        ({"prompt": [-1]}, "prompt", "greater than or equal to 0"),
        ({"prompt": [300]}, None, "not in the vocabulary"),
        ({"prompt": ["a"] * 65}, "prompt", "at most 64"),
        ({"prompt": [1, "a"]}, "prompt", "want"),
        ({"prompt": ""}, None, "the prompt is empty"),
        ({"suffix": "x"}, "suffix", "not supported"),
        ({"best_of": 2}, None, "best_of"),
        ({"logprobs": 21}, "logprobs", "less than or equal to 20"),
        ({"echo": True, "logprobs": 1}, None, "echo with logprobs"),
        ({"model": "other"}, "model", "there are: fake"),
    ],
)
async def test_a_bad_field_is_refused_by_name(
    gateway: Gateway, fields: dict[str, Any], param: str | None, message: str
) -> None:
    response = await complete(gateway, **{"prompt": "a", **fields})
    error = response.json()["error"]
    assert response.status_code in (400, 404)
    assert (error["param"] or "").startswith(param or "")
    assert message in error["message"]


async def test_tokenize_a_text_and_a_conversation(gateway: Gateway) -> None:
    text = (await gateway.http.post("/v1/tokenize", json={"prompt": "ab"})).json()
    assert text == {"model": "fake", "count": 2, "max_model_len": 256, "tokens": [97, 98]}
    chat = {"messages": [{"role": "user", "content": "ab"}]}
    assert (await gateway.http.post("/v1/tokenize", json=chat)).json()["tokens"] == [97, 98]


async def test_detokenize(gateway: Gateway) -> None:
    body = (await gateway.http.post("/v1/detokenize", json={"tokens": [97, 0]})).json()
    assert body == {"model": "fake", "prompt": "a<|end|>"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("tokenize", {}),
        ("tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}),
        ("tokenize", {"prompt": 7}),
        ("detokenize", {"tokens": [9999]}),
        ("detokenize", {"tokens": ["a"]}),
    ],
)
async def test_bad_token_requests_are_refused(gateway: Gateway, path: str, body: dict[str, Any]) -> None:
    response = await gateway.http.post(f"/v1/{path}", json=body)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_one_model(gateway: Gateway) -> None:
    assert (await gateway.http.get("/v1/models/fake")).json()["id"] == "fake"
    for name in ("other", "../../etc/passwd", "..%2f..%2fetc%2fpasswd"):
        response = await gateway.http.get(f"/v1/models/{name}")
        assert response.status_code in (403, 404)
        assert "error" in response.json()


async def test_the_documentation_needs_no_internet(gateway: Gateway) -> None:
    page = (await gateway.http.get("/docs")).text
    assert "http://" not in page
    assert "https://" not in page
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"):
        assert f"docs/{name}" in page
        assert (await gateway.http.get(f"/docs/{name}")).status_code == 200
    assert (await gateway.http.get("/docs/..%2f__init__.py")).status_code == 404
    assert "/v1/chat/completions" in (await gateway.http.get("/openapi.json")).json()["paths"]
