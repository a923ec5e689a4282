from __future__ import annotations

import json
import re

import orjson
import pytest

from appliance.engine.build import engine_build
from appliance.models.gguf_header import GGUFHeader
from appliance.settings import ModelSettings
from tests.gateway import Gateway, engine_config, run_gateway

FINGERPRINT = f"b5d54c39e666-{engine_build()}"

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_whole_answer_has_openai_s_shape() -> None:
    async with run_gateway() as gateway:
        body = (await gateway.chat("ab")).json()
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{32}", body.pop("id"))
    assert isinstance(body.pop("created"), int)
    timings = body.pop("timings")
    assert set(timings) == {"queue_s", "ttft_s", "prompt_tokens_per_s", "completion_tokens_per_s", "cached_tokens"}
    assert timings["ttft_s"] > 0
    assert body == {
        "object": "chat.completion",
        "model": "fake",
        "system_fingerprint": FINGERPRINT,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "cde", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {
            "prompt_tokens": 2,
            "completion_tokens": 3,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


async def test_a_stream_is_this_byte_for_byte(gateway: Gateway) -> None:
    response = await gateway.chat("kl", max_tokens=2, stream=True, stream_options={"include_usage": True})
    head = json.loads(response.text.split("\n\n")[0].removeprefix("data: "))
    timings = json.loads(response.text.split("\n\n")[-3].removeprefix("data: "))["timings"]
    start = (
        f'data: {{"id":"{head["id"]}","object":"chat.completion.chunk","created":{head["created"]},"model":"fake",'
        f'"system_fingerprint":"{FINGERPRINT}",'
    )
    choice = '"choices":[{"index":0,"delta":%s,"logprobs":null,"finish_reason":%s}],"usage":null}\n\n'
    usage = '{"prompt_tokens":2,"completion_tokens":2,"total_tokens":4,"prompt_tokens_details":{"cached_tokens":0}}'
    assert response.text == "".join(
        [
            start + choice % ('{"role":"assistant","content":"","refusal":null}', "null"),
            start + choice % ('{"content":"m"}', "null"),
            start + choice % ('{"content":"n"}', "null"),
            start + choice % ("{}", '"length"'),
            start + f'"choices":[],"usage":{usage},"timings":{orjson.dumps(timings).decode()}}}\n\n',
            "data: [DONE]\n\n",
        ]
    )
    assert response.headers["content-type"].startswith("text/event-stream")


async def test_a_stream_without_usage_says_nothing_of_it(gateway: Gateway) -> None:
    text = (await gateway.chat(stream=True)).text
    assert "usage" not in text
    last = json.loads(text.split("\n\n")[-3].removeprefix("data: "))
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["timings"]["ttft_s"] > 0


async def test_several_choices_stream_side_by_side(gateway: Gateway) -> None:
    text = (await gateway.chat(n=2, max_tokens=2, stream=True)).text
    events = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line.startswith("data: {")]
    for index in (0, 1):
        own = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert [choice["delta"].get("content") for choice in own] == ["", "b", "c", None]
        assert own[-1]["finish_reason"] == "length"


async def test_logprobs_have_tokens_bytes_and_values(gateway: Gateway) -> None:
    body = (await gateway.chat(max_tokens=1, logprobs=True)).json()
    assert body["choices"][0]["logprobs"] == {
        "content": [{"token": "b", "logprob": -0.5, "bytes": [98], "top_logprobs": []}],
        "refusal": None,
    }


async def test_unknown_fields_are_ignored_and_null_is_the_same_as_absent(gateway: Gateway) -> None:
    response = await gateway.chat(frobnicate=1, user="u", top_p=None, seed=None, stop=None, tools=[], n=None)
    assert response.json()["choices"][0]["message"]["content"] == "bcd"


async def test_content_may_be_a_list_of_texts(gateway: Gateway) -> None:
    parts = [{"type": "text", "text": "x"}, {"type": "text", "text": "ab"}]
    response = await gateway.chat(messages=[{"role": "user", "content": parts}])
    assert response.json()["usage"]["prompt_tokens"] == len("x\nab")


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": None}, "messages", "valid list"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role", "'system'"),
        ({"messages": [{"role": "user"}]}, "messages.0", "content is missing"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content", "string"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type", "'text'"),
        ({"temperature": 2.1}, "temperature", "less than or equal to 2"),
        ({"temperature": "hot"}, "temperature", "number"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": -1}, "max_tokens", "greater than or equal to 1"),
        ({"n": 17}, "n", "less than or equal to 16"),
        ({"n": True}, "n", "integer"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "less than or equal to 20"),
        ({"top_logprobs": 2}, None, "wants logprobs"),
        ({"stop": ["x"] * 17}, "stop", "at most 16"),
        ({"logit_bias": {"cat": 1}}, "logit_bias", "not a token id"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "less than or equal to 100"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", "is required"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "want json_schema with the type"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_object"),
        ({"model": "gpt-4"}, "model", "there are: fake"),
    ],
)
async def test_a_bad_field_is_named_in_openai_s_envelope(
    gateway: Gateway, fields: dict[str, object], param: str | None, message: str
) -> None:
    response = await gateway.chat(**fields)
    error = response.json()["error"]
    assert response.status_code == (404 if fields.get("model") else 400)
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or "").startswith(param or "")
    assert re.search(message, error["message"])


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'"x"', b"\xff\xfe", b'{"messages": NaN}'])
async def test_a_body_that_is_no_request_is_a_400(gateway: Gateway, body: bytes) -> None:
    response = await gateway.http.post(
        "/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_a_nan_temperature_is_a_400(gateway: Gateway) -> None:
    body = b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}'
    response = await gateway.http.post(
        "/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "temperature"


async def test_a_prompt_that_does_not_fit_is_a_400_with_the_numbers(gateway: Gateway) -> None:
    for stream in (False, True):
        response = await gateway.chat("x" * 300, stream=stream)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
        assert "300 tokens" in error["message"]


async def test_an_error_inside_a_stream_ends_it_without_done(gateway: Gateway) -> None:
    # "!" makes the fake model fail at once; the stream has begun by then.
    text = (await gateway.chat("!", stream=True)).text
    last = text.rstrip("\n").split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_error"
    assert "[DONE]" not in text


async def test_a_failed_request_that_does_not_stream_is_a_500(gateway: Gateway) -> None:
    response = await gateway.chat("!")
    assert (response.status_code, response.json()["error"]["type"]) == (500, "server_error")


async def test_a_model_without_a_template_refuses_chat() -> None:
    bare = GGUFHeader("fake", 256, 1, ("F32",), None, "", "", (), 1)
    async with run_gateway(header=bare) as gateway:
        response = await gateway.chat()
        assert response.status_code == 400
        assert "no chat template" in response.json()["error"]["message"]


async def test_models_are_listed_with_their_note(gateway: Gateway) -> None:
    (entry,) = (await gateway.http.get("/v1/models")).json()["data"]
    assert (entry["id"], entry["object"], entry["note"]) == ("fake", "model", "a fake")


async def test_a_model_tells_its_context_as_far_as_it_is_known_and_whether_it_chats() -> None:
    bare = GGUFHeader("fake", 256, 1, ("F32",), None, "", "", (), 1)
    own = {"b": ModelSettings(n_ctx=128), "c": ModelSettings(n_ctx=4096)}
    async with run_gateway(engine_config(n_ctx=64), models=dict.fromkeys("abcd", 0), own=own) as gateway:
        entries = {entry["id"]: entry for entry in (await gateway.http.get("/v1/models")).json()["data"]}
        # Loaded; as it is set; set to more than it was trained for; not known before it is loaded.
        assert {name: entry.get("max_model_len") for name, entry in entries.items()} == {
            "a": 64,
            "b": 128,
            "c": 256,
            "d": None,
        }
        assert "max_model_len" not in entries["d"]
        assert all(entry["has_chat_template"] for entry in entries.values())
        assert (await gateway.http.get("/v1/models/b")).json() == entries["b"]
    async with run_gateway(header=bare, is_loaded=False) as gateway:
        assert (await gateway.http.get("/v1/models/fake")).json()["has_chat_template"] is False


async def test_unknown_paths_and_methods_have_the_envelope(gateway: Gateway) -> None:
    for method, path, status in (("GET", "/nowhere", 404), ("GET", "/v1/chat/completions", 405)):
        response = await gateway.http.request(method, path)
        assert response.status_code == status
        assert response.json()["error"]["type"] == "invalid_request_error"


async def test_control_tokens_in_a_message_reach_the_engine_as_text(gateway: Gateway) -> None:
    assert (await gateway.chat("<|end|>a")).json()["usage"]["prompt_tokens"] == len("<|end|>a")


@pytest.mark.parametrize(
    ("asked", "served"), [("flex", "flex"), ("auto", "default"), ("default", "default"), ("priority", "default")]
)
async def test_the_service_tier_that_was_served_stands_in_the_answer(gateway: Gateway, asked: str, served: str) -> None:
    assert (await gateway.chat(service_tier=asked)).json()["service_tier"] == served


async def test_an_unknown_service_tier_is_refused_and_none_is_named_unless_asked(gateway: Gateway) -> None:
    refused = await gateway.chat(service_tier="best")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "service_tier")
    assert "service_tier" not in (await gateway.chat()).json()
