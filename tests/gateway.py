"""A gateway on loopback whose engine is a real process with the fake model: all but llama.cpp is as in service."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from appliance.api.app import AppOptions, create_app
from appliance.api.server import Server, ServerOptions
from appliance.api.state import AppState, compose
from appliance.cache.store import ResponseCache
from appliance.engine.client import EngineProcess
from appliance.engine.messages import EngineConfig
from appliance.hardware.fit import Fit
from appliance.hardware.machine import MachineProbe
from appliance.hardware.memory_use import RAM
from appliance.logs import RecentLines
from appliance.models.gguf_header import GGUFHeader
from appliance.models.store import ModelStore
from appliance.service.activity import Activity
from appliance.service.catalog import Catalog
from appliance.settings import ModelSettings, Settings
from appliance.state.keys import AdminToken, KeyFile
from appliance.supervisor.budget import FixedBudget
from appliance.supervisor.host import ModelHost
from appliance.supervisor.planner import Planner
from appliance.supervisor.spec import ModelSpec
from appliance.supervisor.supervisor import Rules, Supervisor
from tests.fake_backend import fake_path
from tests.fake_models import HEADER, publish_fakes, shape

MODEL = "fake"


def engine_config(*, n_ctx: int = 0, max_running: int = 4, model_path: str = "") -> EngineConfig:
    return EngineConfig(
        model_path=model_path,
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
    state: AppState
    admin: dict[str, str]

    @property
    def activity(self) -> Activity:
        return self.state.activity

    @property
    def host(self) -> ModelHost:
        """That of its only model."""
        (host,) = self.supervisor.hosts.values()
        return host

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
    headers: Mapping[str, GGUFHeader] | None = None,
    server: ServerOptions | None = None,
    max_open: int = 100,
    keys: Path | None = None,
    cors_origins: tuple[str, ...] = (),
    max_body_bytes: int = 8 << 20,
    module: str = "tests.fake_engine",
    models: Mapping[str, int] | None = None,
    n_versions: int = 1,
    limits: dict[str, int] | None = None,
    orders: dict[str, dict[str, Any]] | None = None,
    rules: Rules | None = None,
    is_loaded: bool = True,
    own: dict[str, ModelSettings] | None = None,
    cache: ResponseCache | None = None,
    adapters: tuple[str, ...] = (),
) -> AsyncIterator[Gateway]:
    """A gateway that is ready, unless not ``is_loaded``. Its admin token is in ``gateway.admin``.

    ``models``: the bytes of each, of which the first is the default; ``headers`` names models of different headers
    instead. ``limits``: the bytes of each device. ``orders`` are
    fields of :class:`FakeModel` for each model, by its name or NAME@VERSION; they may be changed while it runs.
    ``own``: settings of single models. ``adapters``: those of the only model. ``cache``: a response cache, which the
    caller starts and stops.
    """
    config = config or engine_config()
    orders = orders if orders is not None else {}

    def spawn(spec: ModelSpec, fit: Fit) -> EngineProcess:
        found = orders.get(spec.key, orders.get(spec.stored.name))
        told = msgspec.structs.replace(
            config,
            pooling=spec.stored.record.header.pooling,
            adapters=spec.adapters,
            n_contexts=fit.run.n_contexts,
        )
        if found is not None:
            told = msgspec.structs.replace(told, model_path=fake_path(**found))
        return EngineProcess(told, log_level="info", log_format="console", module=module)

    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sizes = models or dict.fromkeys(headers or (MODEL,), 0)
        shapes = {name: shape(n_bytes) for name, n_bytes in sizes.items()}
        publish_fakes(
            folder,
            headers or dict.fromkeys(sizes, header),
            note="a fake",
            shapes=shapes,
            n_versions=n_versions,
            adapters={MODEL: adapters},
        )
        in_force = Settings(
            models_dir=folder,
            models_lock=folder / "models.lock",
            state_dir=folder,
            max_running=min(config.max_running, max_open),
            max_waiting=max(0, max_open - config.max_running),
            models=own or {},
        )
        catalog = Catalog(in_force, ModelStore(folder))
        supervisor = Supervisor(spawn, FixedBudget(limits or {RAM: 1 << 40}), Planner(), rules)
        key_file = KeyFile(keys) if keys is not None else None
        state = compose(in_force, catalog, supervisor, MachineProbe({}), RecentLines(), cache, key_file)
        options = AppOptions(
            admin=AdminToken(folder),
            allowed_hosts=("llm.example",),
            cors_origins=cors_origins,
            max_body_bytes=max_body_bytes,
        )
        running = Server(create_app(state, options), server or ServerOptions(drain_s=5.0), on_stop=supervisor.drain)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        serving = asyncio.create_task(running.run_until_stopped(listener, supervisor.stop))
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
            try:
                if is_loaded:
                    await supervisor.load(catalog.resolve(None).spec)
                admin = (folder / "admin-token").read_text().strip()
                yield Gateway(url, http, supervisor, running, state, {"Authorization": f"Bearer {admin}"})
            finally:
                running.stop()
                running.stop()
                await serving
