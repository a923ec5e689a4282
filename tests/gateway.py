"""A gateway on loopback whose engine is a real process with the fake model: all but llama.cpp is as in service."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from appliance.api.app import AppOptions, create_app
from appliance.api.server import Server, ServerOptions
from appliance.api.state import AppState
from appliance.engine.client import EngineProcess
from appliance.engine.messages import EngineConfig
from appliance.models.gguf_header import GGUFHeader
from appliance.models.store import Record, StoredModel
from appliance.service.activity import Activity
from appliance.service.inference import Inference
from appliance.service.metrics import Metrics
from appliance.state.keys import AdminToken, KeyFile
from appliance.supervisor.supervisor import Supervisor

MODEL = "fake"

# The prompt is the last message: the fake model goes on in the alphabet behind it.
HEADER = GGUFHeader(
    architecture="fake",
    n_ctx_train=256,
    n_params=1,
    tensor_types=("F32",),
    chat_template="{{ messages[-1].content }}",
    bos_token="",
    eos_token="",
    control_tokens=("<|end|>",),
    longest_token_bytes=1,
)


def engine_config(*, n_ctx: int = 0, max_running: int = 4) -> EngineConfig:
    return EngineConfig(
        model_path="",
        tensor_types=HEADER.tensor_types,
        longest_token_bytes=HEADER.longest_token_bytes,
        n_ctx=n_ctx,
        n_batch=16,
        prompt_step_s=0.25,
        stream_interval_s=0.0,
        n_threads=1,
        n_threads_batch=1,
        poll=0,
        n_gpu_layers=0,
        max_running=max_running,
        prefix_reuse=True,
    )


@dataclass(frozen=True)
class Gateway:
    url: str
    http: httpx.AsyncClient
    supervisor: Supervisor
    server: Server
    activity: Activity
    admin: dict[str, str]

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    async def chat(self, content: str = "a", **fields: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 3, "temperature": 0, **fields}
        return await self.http.post("/v1/chat/completions", json=body)


@contextlib.asynccontextmanager
async def run_gateway(
    config: EngineConfig | None = None,
    *,
    header: GGUFHeader = HEADER,
    server: ServerOptions | None = None,
    max_open: int = 100,
    keys: Path | None = None,
    cors_origins: tuple[str, ...] = (),
    max_body_bytes: int = 8 << 20,
    module: str = "tests.fake_engine",
) -> AsyncIterator[Gateway]:
    """A gateway that is ready. Its admin token is in ``gateway.admin``."""
    record = Record(
        schema=1, name=MODEL, gguf_sha256="0" * 64, gguf_bytes=1, mtime_ns=0, inode=0, quantization="F32", header=header
    )
    stored = StoredModel(Path("/nowhere"), record, note="a fake")
    spawn = partial(EngineProcess, config or engine_config(), log_level="info", log_format="console", module=module)
    supervisor = Supervisor(spawn, spawn(), max_open=max_open)
    activity = Activity(Metrics(MODEL, lambda: supervisor.load))
    state = AppState(stored, supervisor, activity, Inference(supervisor, stored, activity))
    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.TemporaryDirectory() as scratch:
        options = AppOptions(
            keys=KeyFile(keys) if keys is not None else None,
            admin=AdminToken(Path(scratch)),
            allowed_hosts=("llm.example",),
            cors_origins=cors_origins,
            max_body_bytes=max_body_bytes,
        )
        running = Server(create_app(state, options), server or ServerOptions(drain_s=5.0), on_stop=supervisor.drain)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        serving = asyncio.create_task(running.run_until_stopped(listener, supervisor.stop))
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
            try:
                await supervisor.wait_until_loaded()
                admin = (Path(scratch) / "admin-token").read_text().strip()
                yield Gateway(url, http, supervisor, running, activity, {"Authorization": f"Bearer {admin}"})
            finally:
                running.stop()
                running.stop()
                await serving
