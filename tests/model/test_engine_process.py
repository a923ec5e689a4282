"""A real engine process, as the gateway sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import msgspec
import psutil
import pytest

from appliance.engine.client import EventStream
from appliance.engine.messages import Finished
from appliance.errors import EngineCrashed, EngineFailed, EngineOutOfMemory
from appliance.models.store import StoredModel
from tests.factories import submit
from tests.model.engines import config, started
from tests.server import ROOT


async def last_event(stream: EventStream) -> Finished:
    while True:
        for event in await stream.next_events():
            if isinstance(event, Finished):
                return event


async def test_an_engine_tells_its_memory_and_how_far_it_is(stored: StoredModel) -> None:
    async with started(config(stored)) as client:
        ready = await client.ready()
        assert client.load_progress == 1.0
    assert {buffer.kind for buffer in ready.buffers} == {"weights", "kv", "compute", "output"}
    assert ready.anonymous_bytes > sum(buffer.n_bytes for buffer in ready.buffers if buffer.kind == "kv")


async def test_a_context_without_room_is_an_error_with_the_numbers_and_not_a_crash(stored: StoredModel) -> None:
    """With 4 GiB for the process: what can't be had must not depend on the machine."""
    async with started(config(stored, n_ctx=1 << 20), "tests.limited_engine") as client:
        with pytest.raises(EngineOutOfMemory) as raised:
            await client.ready()
        await client.ended()
        assert client.exit_reason() == "ended with status 0"
    assert "can't make a context of 1048576 tokens, K as f16 and V as f16" in raised.value.message
    assert "attempted to allocate 23040.00 MB" in raised.value.message


async def test_a_file_that_is_no_model_is_no_want_of_memory(stored: StoredModel) -> None:
    async with started(config(stored, model_path="/nowhere.gguf")) as client:
        with pytest.raises(EngineFailed, match="No such file or directory") as raised:
            await client.ready()
    assert not isinstance(raised.value, EngineOutOfMemory)


async def test_a_stopped_engine_that_is_killed_ends_all_its_requests(stored: StoredModel) -> None:
    async with started(config(stored)) as client:
        await client.ready()
        endless = [submit(text, max_tokens=None, ignore_eos=True) for text in ("a", "b")]
        async with client.submit(endless[0]) as first, client.submit(endless[1]) as second:
            for stream in (first, second):
                await stream.next_events()
            os.kill(client.pid, signal.SIGSTOP)
            client.kill("was ended by the test")
            for stream in (first, second):
                with pytest.raises(EngineCrashed):
                    await last_event(stream)


async def test_an_engine_does_not_heed_the_signals_that_stop_a_gateway(stored: StoredModel) -> None:
    async with started(config(stored)) as client:
        await client.ready()
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(client.pid, number)
        async with client.submit(submit("a")) as stream:
            assert (await last_event(stream)).n_completion == 4
        await client.stop(20)
        assert client.exit_reason() == "ended with status 0"


GATEWAY = """
import sys, time
import msgspec
from appliance.engine.client import EngineProcess
from appliance.engine.messages import EngineConfig
config = msgspec.msgpack.decode(bytes.fromhex(sys.argv[1]), type=EngineConfig)
lines = []
process = EngineProcess(config, log_level="debug", log_format="console", on_log=lines.append)
while len(lines) < int(sys.argv[2]):
    time.sleep(0.0001)
print(process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("n_lines", [1, 100, 1000])
def test_an_engine_whose_gateway_is_killed_while_it_loads_and_writes_ends(stored: StoredModel, n_lines: int) -> None:
    """At whatever line of the many that llama.cpp writes: a broken pipe is no reason to stay, and none to hang."""
    gateway = subprocess.Popen(
        [sys.executable, "-c", GATEWAY, msgspec.msgpack.encode(config(stored)).hex(), str(n_lines)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with gateway:
        assert gateway.stdout is not None
        engine = psutil.Process(int(gateway.stdout.readline()))
        gateway.kill()
    _, alive = psutil.wait_procs([engine], timeout=20)
    assert not alive
