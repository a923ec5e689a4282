"""``POST /v1/embeddings`` over a real engine process with a fake model."""

from __future__ import annotations

import asyncio
import base64
import itertools
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest
import pytest_asyncio

from tests.api.answers import BYPASS, HIT, MISS, error, state
from tests.fake_embedder import BEGIN, END, vector
from tests.fake_models import EMBEDDING_HEADER, HEADER
from tests.gateway import Gateway, run_gateway
from tests.machine_room import until
from tests.response_cache import open_cache

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEADERS = {"embedder": EMBEDDING_HEADER, "writer": HEADER, "ranker": msgspec.structs.replace(HEADER, pooling="rank")}
_numbers = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """Only the embedder is loaded. Each test asks of texts that no other does."""
    async with (
        open_cache(tmp_path_factory.mktemp("cache")) as cache,
        run_gateway(headers=HEADERS, cache=cache) as running,
    ):
        yield running


@pytest.fixture
def text() -> str:
    return f"text {next(_numbers)}"


async def embed(gateway: Gateway, given: Any, *directives: str, **fields: Any) -> httpx.Response:
    headers = [("Cache-Control", directive) for directive in directives]
    return await gateway.http.post("/v1/embeddings", json={"input": given, **fields}, headers=headers)


def vectors(response: httpx.Response) -> list[bytes]:
    """As float32."""
    data = response.json()["data"]
    assert [entry["index"] for entry in data] == list(range(len(data)))
    return [struct.pack(f"<{len(entry['embedding'])}f", *entry["embedding"]) for entry in data]


def expected(text: str) -> bytes:
    return vector(list(text.encode()))


async def test_a_text_gets_a_vector_in_openai_s_shape(gateway: Gateway, text: str) -> None:
    response = await embed(gateway, text, model="embedder")
    body = response.json()
    assert vectors(response) == [expected(text)]
    n_tokens = len(text) + 2
    assert {**body, "data": None} == {
        "object": "list",
        "data": None,
        "model": "embedder",
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }
    assert body["data"][0]["object"] == "embedding"


async def test_texts_and_lists_of_tokens_keep_their_order(gateway: Gateway, text: str) -> None:
    texts = [f"{letter}{text}" for letter in "abc" * 10]
    assert vectors(await embed(gateway, texts)) == [expected(one) for one in texts]
    tokens = [[BEGIN, *one.encode(), END] for one in texts]
    assert vectors(await embed(gateway, tokens)) == [expected(one) for one in texts]
    assert vectors(await embed(gateway, tokens[1])) == [expected(texts[1])]


async def test_base64_has_the_same_numbers(gateway: Gateway, text: str) -> None:
    response = await embed(gateway, [text], encoding_format="base64")
    assert base64.b64decode(response.json()["data"][0]["embedding"]) == expected(text)


async def test_the_official_client_gets_them(gateway: Gateway, text: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none") as client:
        answer = await client.embeddings.create(model="embedder", input=[text, "b"])
        assert struct.pack("<4f", *answer.data[0].embedding) == expected(text)
        assert answer.usage.total_tokens == len(text) + 2 + 3
        with pytest.raises(openai.BadRequestError, match="32 tokens"):
            await client.embeddings.create(model="embedder", input="x" * 40)


@pytest.mark.parametrize(
    ("given", "fields", "param", "words"),
    [
        ("", {}, "input", "empty text"),
        ([], {}, "input", "at least 1"),
        (["a", ""], {}, "input.1", "empty text"),
        ([[97], []], {}, "input.1", "at least 1"),
        ([[97], [999]], {}, "input", "input 1: token 999 is not in the vocabulary"),
        (["a"] * 2049, {}, "input", "at most 2048"),
        (["a", "b" * 40], {}, "input", "input 1 has 42 tokens; this model embeds texts of at most 32"),
        ("a", {"dimensions": 3}, "dimensions", "makes 4 numbers"),
        ("a", {"encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ("a", {"model": "writer"}, "model", "/v1/chat/completions"),
        ("a", {"model": "ranker"}, "model", "doesn't serve"),
        (None, {}, "input", ""),
    ],
)
async def test_what_cannot_be_embedded_is_a_400_that_says_why(
    gateway: Gateway, given: Any, fields: dict[str, Any], param: str, words: str
) -> None:
    response = await embed(gateway, given, **fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert words in response.json()["error"]["message"]
    assert set(gateway.supervisor.hosts) == {gateway.state.catalog.resolve("embedder").spec.key}, "none was loaded"


async def test_a_text_that_is_too_long_has_openai_s_code(gateway: Gateway) -> None:
    assert error(await embed(gateway, "x" * 40))[1] == "context_length_exceeded"


async def test_the_model_s_own_dimensions_may_be_named(gateway: Gateway, text: str) -> None:
    assert vectors(await embed(gateway, text, dimensions=4)) == [expected(text)]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_an_embedding_model_writes_no_text_and_says_where_to_go(gateway: Gateway, path: str) -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "prompt": "a", "model": "embedder"}
    response = await gateway.http.post(path, json=body)
    assert response.status_code == 400
    assert "/v1/embeddings" in response.json()["error"]["message"]


async def test_models_say_what_they_are_for(gateway: Gateway) -> None:
    entries = (await gateway.http.get("/v1/models")).json()["data"]
    assert {entry["id"]: entry["kind"] for entry in entries} == {
        "embedder": "embedding",
        "writer": "text",
        "ranker": "rerank",
    }
    listed = (await gateway.http.get("/admin/models", headers=gateway.admin)).json()["models"]
    assert [entry["kind"] for entry in listed] == ["embedding", "text", "rerank"]


async def test_the_status_shows_no_kv_cache_where_there_is_none(gateway: Gateway, text: str) -> None:
    await embed(gateway, text)
    (status,) = (await gateway.http.get("/admin/status", headers=gateway.admin)).json()["models"]
    assert (status["state"], status["engine"]["kv_cache"]) == ("ready", None)
    assert status["engine"]["work"]["prompt_tokens_computed"] > 0


async def test_tokens_are_those_that_would_be_embedded(gateway: Gateway) -> None:
    body = (await gateway.http.post("/v1/tokenize", json={"model": "embedder", "prompt": "ab"})).json()
    assert (body["tokens"], body["max_model_len"]) == ([BEGIN, 97, 98, END], 32)


async def test_what_is_stored_of_a_batch_is_not_computed_again(gateway: Gateway, text: str) -> None:
    engine = gateway.supervisor.hosts[gateway.state.catalog.resolve("embedder").spec.key]
    first = await embed(gateway, [text, f"{text}b"])
    before = engine.load_info
    again = await embed(gateway, [f"{text}b", text])
    assert (state(first), state(again)) == (MISS, HIT)
    assert vectors(again) == list(reversed(vectors(first)))
    assert again.json()["usage"] == first.json()["usage"]
    assert engine.load_info == before
    part = await embed(gateway, [f"{text}b", f"{text}c", text])
    assert (state(part), vectors(part)[1]) == (MISS, expected(f"{text}c"))
    assert before is not None
    assert engine.load_info is not None
    assert engine.load_info.n_prompt_computed - before.n_prompt_computed == len(text) + 3


async def test_cache_control_is_obeyed(gateway: Gateway, text: str) -> None:
    assert (await embed(gateway, text, "only-if-cached")).status_code == 504
    assert state(await embed(gateway, text, "no-store")) == BYPASS
    assert (await embed(gateway, text, "only-if-cached")).status_code == 504
    assert state(await embed(gateway, text, "no-cache")) == BYPASS
    assert state(await embed(gateway, text, "only-if-cached")) == HIT


async def test_the_log_s_figures_and_metrics_count_it(gateway: Gateway, text: str) -> None:
    await embed(gateway, [text])
    ended = gateway.activity.recent[-1]
    assert (ended.model, ended.outcome, ended.n_prompt, ended.n_completion) == ("embedder", "stop", len(text) + 2, 0)
    metrics = (await gateway.http.get("/metrics")).text
    assert 'appliance_request_outcomes_total{model_name="embedder",outcome="stop"}' in metrics
    assert 'appliance_prompt_tokens_total{model_name="embedder"}' in metrics


async def test_a_long_request_is_listed_cancelled_and_left() -> None:
    """2,000 texts take 500 steps of 20 ms: each request ends because it is told to."""
    slow = {"embedder": {"step_s": 0.02}}
    texts = ["ab"] * 2000
    async with run_gateway(headers={"embedder": EMBEDDING_HEADER}, orders=slow) as gateway:
        asking = asyncio.create_task(embed(gateway, texts))
        await until(lambda: any(one.n_computed for one in gateway.activity.running()))
        listed = (await gateway.http.get("/admin/requests", headers=gateway.admin)).json()["requests"]
        assert [(entry["state"], entry["prompt_tokens"]) for entry in listed] == [("prefill", 8000)]
        short = await embed(gateway, "short")
        assert vectors(short) == [expected("short")]
        assert not asking.done(), "it got between the texts of the long one"
        (running,) = gateway.activity.running()
        assert gateway.activity.cancel(running.context.request_id)
        assert error(await asking) == (409, "request_cancelled")
        leaving = asyncio.create_task(embed(gateway, texts))
        await until(lambda: any(one.n_computed for one in gateway.activity.running()))
        leaving.cancel()
        await until(lambda: not gateway.activity.running())
        assert vectors(await embed(gateway, "after")) == [expected("after")]
        await until(lambda: (load := gateway.host.load_info) is not None and load.n_running == 0)


async def test_a_full_queue_is_a_429(tmp_path: Path) -> None:
    slow = {"embedder": {"step_s": 0.02}}
    async with run_gateway(headers={"embedder": EMBEDDING_HEADER}, orders=slow, max_open=1) as gateway:
        asking = asyncio.create_task(embed(gateway, ["ab"] * 500))
        await until(lambda: any(one.n_prompt for one in gateway.activity.running()))
        refused = await embed(gateway, "b")
        assert error(refused) == (429, "queue_full")
        assert "retry-after" in refused.headers
        asking.cancel()


async def test_one_that_fails_in_the_engine_is_a_500(gateway: Gateway) -> None:
    assert error(await embed(gateway, ["a", "!"])) == (500, "engine_error")
