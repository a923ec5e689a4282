"""The official client against a live server with the real model."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.server import start_server

MODEL = "smollm2-135m-instruct"
COUNT: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Count: 1, 2, 3, 4, 5, 6, 7,"}]


def test_models_list(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=COUNT, max_tokens=8, temperature=0)
    assert answer.model == MODEL
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


def test_a_stream_with_usage_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=COUNT, max_tokens=8, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=COUNT,
            max_tokens=8,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    usage = chunks[-1].usage
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=COUNT, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 4
    assert "".join(record.token for record in logprobs.content) == answer.choices[0].message.content
    for record in logprobs.content:
        assert len(record.top_logprobs) == 3
        assert record.logprob == record.top_logprobs[0].logprob
        assert math.exp(record.logprob) <= 1
        assert bytes(record.bytes or []).decode() == record.token


def test_n_and_seed(client: openai.OpenAI) -> None:
    def ask(seed: int) -> list[str | None]:
        answer = client.chat.completions.create(model=MODEL, messages=COUNT, max_tokens=16, n=3, seed=seed)
        assert answer.usage is not None
        assert answer.usage.completion_tokens <= 48
        return [choice.message.content for choice in sorted(answer.choices, key=lambda c: c.index)]

    first = ask(5)
    assert len(set(first)) == 3
    assert ask(5) == first
    assert ask(6) != first


def test_stop(client: openai.OpenAI) -> None:
    full = client.chat.completions.create(model=MODEL, messages=COUNT, max_tokens=16, temperature=0)
    text = full.choices[0].message.content or ""
    stop = text[len(text) // 2 :][:3]
    cut = client.chat.completions.create(model=MODEL, messages=COUNT, max_tokens=16, temperature=0, stop=[stop])
    assert cut.choices[0].message.content == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_cancelling_a_stream_leaves_the_server_at_work(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=COUNT, stream=True, max_tokens=2000, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    assert client.chat.completions.create(model=MODEL, messages=COUNT, max_tokens=2).choices[0].message.content


def test_text_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="1, 2, 3, 4, 5, 6, 7,", max_tokens=8, temperature=0, logprobs=2
    )
    (choice,) = answer.choices
    assert choice.text == " 8, 9, 1"
    assert choice.logprobs is not None
    assert "".join(choice.logprobs.tokens or []) == choice.text
    streamed = client.completions.create(
        model=MODEL, prompt=["1, 2, 3, 4, 5, 6, 7,", "a, b, c, d, e, f, g,"], max_tokens=8, temperature=0, stream=True
    )
    texts = ["", ""]
    for chunk in streamed:
        for part in chunk.choices:
            texts[part.index] += part.text
    assert texts == [" 8, 9, 1", " h, i, j, k,"]


def test_the_fingerprint_is_of_the_model_and_the_build(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=COUNT, max_tokens=1)
    assert answer.system_fingerprint == "b179c9523d0e-llama-cpp-python-0.3.36"
    assert answer.model_extra is not None
    assert answer.model_extra["timings"]["ttft_s"] > 0


def test_a_model_can_be_looked_up(client: openai.OpenAI) -> None:
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_access_and_limit_errors(stored: object, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sk-0123456789abcdef name=app\n")
    settings = {"APPLIANCE_API_KEYS_FILE": str(keys), "APPLIANCE_MAX_RUNNING": "1", "APPLIANCE_MAX_WAITING": "0"}
    with start_server(**settings) as guarded:

        def client_with(key: str) -> openai.OpenAI:
            return openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=key, max_retries=0)

        with client_with("sk-wrong-0123456789") as stranger, pytest.raises(openai.AuthenticationError) as refused:
            stranger.models.list()
        assert refused.value.code == "invalid_api_key"
        with client_with("sk-0123456789abcdef") as client:
            stream = client.chat.completions.create(
                model=MODEL, messages=COUNT, stream=True, extra_body={"ignore_eos": True}
            )
            next(iter(stream))
            with pytest.raises(openai.RateLimitError) as full:
                client.chat.completions.create(model=MODEL, messages=COUNT)
            assert int(full.value.response.headers["retry-after"]) > 0
            stream.close()
            with pytest.raises(openai.APIStatusError) as large:
                client.completions.create(model=MODEL, prompt="x" * (9 << 20))
            assert large.value.status_code == 413


def test_error_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=f"there are: {MODEL}") as missing:
        client.chat.completions.create(model="gpt-4", messages=COUNT)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="temperature") as bad:
        client.chat.completions.create(model=MODEL, messages=COUNT, temperature=9)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="context holds") as long:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 9000}])
    assert long.value.code == "context_length_exceeded"


async def test_the_async_client_chats_and_cancels(async_client: openai.AsyncOpenAI) -> None:
    create = async_client.chat.completions.create
    task = asyncio.create_task(create(model=MODEL, messages=COUNT, max_tokens=4000, extra_body={"ignore_eos": True}))
    answer = await create(model=MODEL, messages=COUNT, max_tokens=4, temperature=0)
    assert answer.choices[0].message.content
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_32_clients_stream_side_by_side(async_client: openai.AsyncOpenAI) -> None:
    loop = asyncio.get_running_loop()
    order: list[int] = []

    async def stream(number: int) -> float:
        started = loop.time()
        n_tokens = 0
        chunks = await async_client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"Tell me about the number {number}."}],
            max_tokens=64,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        async for chunk in chunks:
            order.append(number)
            if chunk.usage is not None:
                n_tokens = chunk.usage.completion_tokens
        assert n_tokens == 64
        return loop.time() - started

    durations = sorted(await asyncio.gather(*(stream(number) for number in range(32))))
    assert durations[-1] <= 3 * durations[16]
    # Interleaved: all have begun before the first one ends, and the pieces take turns.
    last_begin = max(order.index(number) for number in range(32))
    first_end = min(len(order) - 1 - order[::-1].index(number) for number in range(32))
    assert last_begin < first_end
    assert sum(a != b for a, b in zip(order, order[1:], strict=False)) > len(order) / 2
