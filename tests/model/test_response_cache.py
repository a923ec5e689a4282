"""Stored answers of the real model, as the official client gets them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.server import RunningServer, start_server

MODEL = "smollm2-135m-instruct"
CHAT: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Name three colours."}],
    "max_tokens": 24,
    "temperature": 0,
}
SEEDED: dict[str, Any] = {**CHAT, "temperature": 0.8, "seed": 11, "n": 2, "logprobs": True, "top_logprobs": 2}
TEXT: dict[str, Any] = {"model": MODEL, "prompt": "The sun is", "max_tokens": 12, "temperature": 0, "echo": True}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The response cache's, which outlives a server."""
    return tmp_path_factory.mktemp("cache") / "responses.db"


def serve(file: Path) -> AbstractContextManager[RunningServer]:
    return start_server(APPLIANCE_RESPONSE_CACHE="true", APPLIANCE_RESPONSE_CACHE_FILE=str(file))


def client_of(server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def first(file: Path) -> list[tuple[str, Any]]:
    """What a server answered that has ended."""
    with serve(file) as server, client_of(server) as client:
        return ask_all(client)


@pytest.fixture(scope="module")
def server(first: list[tuple[str, Any]], file: Path) -> Iterator[RunningServer]:
    """The one after it."""
    with serve(file) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    with client_of(server) as client:
        yield client


def ask_all(client: openai.OpenAI) -> list[tuple[str, Any]]:
    """Where each answer came from, and its choices."""
    found = []
    for body in (CHAT, SEEDED):
        chat = client.chat.completions.with_raw_response.create(**body)
        found.append((chat.headers["X-Cache"], [choice.model_dump() for choice in chat.parse().choices]))
    text = client.completions.with_raw_response.create(**TEXT)
    found.append((text.headers["X-Cache"], [choice.model_dump() for choice in text.parse().choices]))
    return found


def test_a_server_that_was_started_again_answers_without_its_model(
    first: list[tuple[str, Any]], server: RunningServer, client: openai.OpenAI
) -> None:
    assert [state for state, _ in first] == ["miss"] * 3
    assert first[2][1][0]["text"].startswith("The sun is")
    token = (server.state_dir / "admin-token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    unloaded = httpx.post(f"{server.url}/admin/models/{MODEL}/unload", headers=headers, timeout=60, trust_env=False)
    assert unloaded.json()["state"] == "stored"
    assert ask_all(client) == [("hit", choices) for _, choices in first]
    chunks = list(client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == first[0][1][0]["message"]["content"]
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens
    models = httpx.get(f"{server.url}/admin/status", headers=headers, timeout=60, trust_env=False).json()["models"]
    assert [model["state"] for model in models] == ["stored"]


def test_a_stream_that_was_computed_is_replayed_whole(client: openai.OpenAI) -> None:
    body = {**CHAT, "messages": [{"role": "user", "content": "Name three cities."}]}
    pieces = []
    for _ in range(2):
        with client.chat.completions.with_streaming_response.create(**body, stream=True) as response:
            chunks = [chunk for chunk in response.parse() if chunk.choices]
            pieces.append((response.headers["X-Cache"], [chunk.choices[0].delta.content for chunk in chunks]))
    assert [state for state, _ in pieces] == ["miss", "hit"]
    assert pieces[0][1] == pieces[1][1]
    whole = client.chat.completions.with_raw_response.create(**body)
    assert whole.headers["X-Cache"] == "hit"
    assert whole.parse().choices[0].message.content == "".join(piece or "" for piece in pieces[0][1])


def test_the_client_asks_for_stored_answers_only(client: openai.OpenAI) -> None:
    body = {**CHAT, "messages": [{"role": "user", "content": "Name three rivers."}]}
    only = {"Cache-Control": "only-if-cached"}
    with pytest.raises(openai.InternalServerError) as refused:
        client.chat.completions.create(**body, extra_headers=only)
    assert (refused.value.status_code, refused.value.code) == (504, "not_cached")
    computed = client.chat.completions.create(**body)
    stored = client.chat.completions.create(**body, extra_headers=only)
    assert stored.choices == computed.choices
    assert stored.id != computed.id
