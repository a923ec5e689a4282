"""Computed prefixes that outlive their engine process, with the real model."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec
import pytest

from appliance.engine.client import EngineClient
from appliance.engine.kv_messages import WarmTierConfig
from appliance.engine.messages import (
    EngineConfig,
    Failed,
    Finished,
    Piece,
    PromptPart,
    Submit,
)
from appliance.engine.params import SamplingParams
from appliance.models.store import StoredModel
from tests.machine_room import until
from tests.model.engines import config as engine_config
from tests.model.engines import started

# Some 430 tokens, and behind them one of SAFE_PROMPTS, with another answer after some more text.
LINES = "".join(f"Day {number}: it rained, and nothing happened. " for number in range(36))
COUNTED = "1, 2, 3, 4, 5, 6, 7,"


@pytest.fixture
def config(stored: StoredModel, tmp_path: Path) -> EngineConfig:
    warm_tier = WarmTierConfig(str(tmp_path), 1 << 30, stored.record.gguf_sha256)
    return msgspec.structs.replace(engine_config(stored, n_threads=2, n_threads_batch=2), warm_tier=warm_tier)


async def answer(client: EngineClient, prompt: str) -> tuple[str, int]:
    """The greedy text, and how many tokens of the prompt were not computed."""
    params = SamplingParams(temperature=0)
    text = ""
    await client.ready()
    async with client.submit(Submit("r", (PromptPart(prompt, False),), params=params, max_tokens=12)) as stream:
        while True:
            for event in await stream.next_events():
                assert not isinstance(event, Failed), event
                if isinstance(event, Piece):
                    text += event.text
                if isinstance(event, Finished):
                    return text, event.n_cached


def file_in(root: Path) -> Path | None:
    return next(root.rglob("*.kv"), None)


async def test_it_survives_a_kill_and_gives_the_same_text(config: EngineConfig, tmp_path: Path) -> None:
    async with started(config) as client:
        text, _ = await answer(client, LINES + COUNTED)
        await until(lambda: file_in(tmp_path))
        os.kill(client.pid, signal.SIGKILL)
        await client.ended()
    async with started(config) as client:
        again, n_cached = await answer(client, LINES + COUNTED)
        more, n_of_more = await answer(client, LINES + "The next number after 1, 2, 3, 4, 5 is")
    assert "8, 9" in text
    assert again == text
    assert n_cached > 400
    assert n_of_more > 400
    async with started(msgspec.structs.replace(config, warm_tier=None)) as client:
        assert await answer(client, LINES + "The next number after 1, 2, 3, 4, 5 is") == (more, 0)


async def test_a_stop_saves_it_and_damage_is_found_out(config: EngineConfig, tmp_path: Path) -> None:
    async with started(config) as client:
        text, _ = await answer(client, LINES + COUNTED)
        await client.stop(20)
    path = file_in(tmp_path)
    assert path is not None
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    async with started(config) as client:
        assert await answer(client, LINES + COUNTED) == (text, 0)
        assert client.load is not None
        assert client.load.warm_tier is not None
        assert client.load.warm_tier.rejected == {"damaged": 1}


async def test_a_file_of_other_cache_types_is_left_alone(config: EngineConfig, tmp_path: Path) -> None:
    async with started(config) as client:
        await answer(client, LINES + COUNTED)
        await client.stop(20)
    other = msgspec.structs.replace(config, type_k="q8_0", type_v="q8_0")
    async with started(other) as client:
        assert (await answer(client, LINES + COUNTED))[1] == 0
        await client.stop(20)
    assert len(list(tmp_path.rglob("*.kv"))) == 2
