"""The gateway's end and a real engine process with the fake model: how it loads, what it writes, how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from appliance.engine.client import EngineClient, EngineProcess, EventStream
from appliance.engine.messages import Finished, Submit
from appliance.errors import EngineCrashed, EngineFailed, EngineOutOfMemory
from tests.factories import submit
from tests.fake_backend import fake_path
from tests.gateway import engine_config
from tests.server import ROOT

ENDLESS: dict[str, Any] = {"max_tokens": None, "ignore_eos": True}


def spawn(*, n_ctx: int = 0, n_gpu_layers: int = 0, lines: list[str] | None = None, **model: Any) -> EngineProcess:
    """``model``: how it behaves; ``lines`` get what it writes."""
    fields = {"n_gpu_layers": n_gpu_layers, "model_path": fake_path(**model)}
    return EngineProcess(
        msgspec.structs.replace(engine_config(n_ctx=n_ctx), **fields),
        log_level="info",
        log_format="console",
        module="tests.fake_engine",
        on_log=(lines if lines is not None else []).append,
    )


@asynccontextmanager
async def client_of(process: EngineProcess, **options: Any) -> AsyncIterator[EngineClient]:
    client = EngineClient(process, max_open=10, **options)
    try:
        yield client
    finally:
        client.kill("was ended by the test")
        await client.ended()


async def finished(client: EngineClient, message: Submit) -> Finished:
    async with client.submit(message) as stream:
        return await last_event(stream)


async def last_event(stream: EventStream) -> Finished:
    while True:
        for event in await stream.next_events():
            if isinstance(event, Finished):
                return event


async def test_how_far_loading_is_can_be_seen(tmp_path: Path) -> None:
    seen: list[float] = []
    async with client_of(spawn(load_until=str(tmp_path / "go")), on_progress=seen.append) as client:
        while client.load_progress is None:
            await asyncio.sleep(0.001)
        assert client.load_progress == 0.99
        (tmp_path / "go").touch()
        await client.ready()
        assert client.load_progress == 1.0
    assert seen == [0.99, 1.0]


async def test_a_model_without_room_is_told_from_one_that_is_broken() -> None:
    async with client_of(spawn(n_gpu_layers=-1, oom_above_layers=9)) as client:
        with pytest.raises(EngineOutOfMemory, match="no memory for 10 layers"):
            await client.ready()
    async with client_of(spawn(n_gpu_layers=9, oom_above_layers=9)) as client:
        assert (await client.ready()).n_gpu_layers == 9
    async with client_of(spawn(fail="no such file")) as client:
        with pytest.raises(EngineFailed, match="no such file") as raised:
            await client.ready()
    assert not isinstance(raised.value, EngineOutOfMemory)


async def test_an_assertion_that_fails_while_the_model_loads_is_told() -> None:
    async with client_of(spawn(crash_at_load=True)) as client:
        with pytest.raises(EngineCrashed, match=r"SIGABRT while it loaded the model: fake.c:1: GGML_ASSERT\(false\)"):
            await client.ready()
        await client.ended()
    assert client.exit_reason() == "was ended by SIGABRT: fake.c:1: GGML_ASSERT(false) failed"


async def test_a_process_that_ends_for_want_of_memory_while_it_loads_is_told_apart() -> None:
    async with client_of(spawn(say="ggml-cuda.cu:96: CUDA error: out of memory", crash_at_load=True)) as client:
        with pytest.raises(EngineOutOfMemory, match="SIGABRT"):
            await client.ready()


async def test_an_engine_that_is_healed_works() -> None:
    async with client_of(spawn(fail="broken", crash_after=0, healed_by=str(ROOT / "pyproject.toml"))) as client:
        await client.ready()
        assert (await finished(client, submit("a"))).n_completion == 4


async def test_all_that_it_writes_comes_out_to_the_last_line(capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    async with client_of(spawn(crash_after=2, lines=lines)) as client:
        await client.ready()
        with pytest.raises(EngineCrashed):
            await finished(client, submit("a", **ENDLESS))
        await client.ended()
    assert "engine_ready" in lines[0]
    assert lines[-1] == "fake.c:1: GGML_ASSERT(false) failed"
    assert capfd.readouterr().err.splitlines() == lines


async def test_more_than_a_pipe_holds_does_not_stop_an_engine_without_client(tmp_path: Path) -> None:
    """As llama.cpp writes at the log level debug, while the gateway still imports its web framework."""
    lines: list[str] = []
    process = spawn(say="0123456789", say_times=12_000, lines=lines)
    while not any("engine_ready" in line for line in lines):
        await asyncio.sleep(0.001)
    async with client_of(process) as client:
        await client.ready()
    assert lines.count("0123456789") == 12_000


async def test_a_wedged_engine_is_ended_and_its_requests_with_it() -> None:
    async with client_of(spawn(hang_after=2)) as client:
        await client.ready()
        message = submit("a", **ENDLESS)
        async with client.submit(message) as stream:
            while client.load is None or client.load.n_steps < 2:
                await stream.next_events()
            client.kill("was ended by the test")
            with pytest.raises(EngineCrashed):
                await last_event(stream)
        await client.ended()
        assert client.exit_reason() == "was ended by the test"


async def test_a_stopped_engine_that_is_killed_ends_all_its_requests() -> None:
    async with client_of(spawn(n_ctx=1 << 20)) as client:
        await client.ready()
        async with client.submit(submit("a", **ENDLESS)) as first, client.submit(submit("b", **ENDLESS)) as second:
            for stream in (first, second):
                await stream.next_events()
            os.kill(client.pid, signal.SIGSTOP)
            client.kill("was ended by the test")
            for stream in (first, second):
                with pytest.raises(EngineCrashed):
                    await last_event(stream)
        await client.ended()


async def test_a_stopped_engine_is_ended_when_it_does_not_end_by_itself() -> None:
    async with client_of(spawn()) as client:
        await client.ready()
        os.kill(client.pid, signal.SIGSTOP)
        await client.stop(0.05)
        assert client.exit_reason() == "was ended by SIGKILL; the machine may be out of memory"


async def test_one_token_says_whether_an_engine_lives() -> None:
    async with client_of(spawn()) as client:
        await client.ready()
        canary = Submit("canary", tokens=(0,), max_tokens=1)
        assert (await finished(client, canary)).n_completion == 1


GATEWAY = """
import sys, time
from tests.engine.test_process import spawn
process = spawn(**eval(sys.argv[1]))
print(process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("model", [{}, {"load_until": "/nowhere", "say": "x", "say_times": 90_000}])
def test_an_engine_whose_gateway_was_killed_ends_whatever_it_has_to_say(model: dict[str, Any]) -> None:
    gateway = subprocess.Popen(
        [sys.executable, "-c", GATEWAY, repr(model)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with gateway:
        assert gateway.stdout is not None
        engine = psutil.Process(int(gateway.stdout.readline()))
        gateway.kill()
    try:
        engine.wait(20)
    except psutil.NoSuchProcess:
        pass
