"""``python -m bench.probes.gateway PORT STATE_DIR``: a gateway as in service, but its engine is the fake one."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import uvloop

from appliance import logs
from appliance.api.app import AppOptions, create_app
from appliance.api.server import Server, ServerOptions
from appliance.api.state import compose
from appliance.engine.client import EngineProcess
from appliance.hardware.fit import Fit
from appliance.hardware.machine import MachineProbe
from appliance.hardware.memory_use import RAM
from appliance.models.gguf_header import GGUFHeader
from appliance.models.store import ModelStore
from appliance.service.catalog import Catalog
from appliance.settings import Settings
from appliance.state.keys import AdminToken
from appliance.supervisor.budget import FixedBudget
from appliance.supervisor.planner import Planner
from appliance.supervisor.spec import ModelSpec
from appliance.supervisor.supervisor import Supervisor
from bench.engine_config import config_for
from bench.probes.fake_engine import N_CTX
from tests.fake_models import publish_fakes

MODEL = "fake"
HEADER = GGUFHeader(
    architecture="fake",
    n_ctx_train=N_CTX,
    n_params=1,
    tensor_types=("F32",),
    chat_template="{{ messages[-1].content }}",
    bos_token="",
    eos_token="",
    control_tokens=(),
    longest_token_bytes=8,
)
CONFIG = config_for(HEADER, "", n_ctx=0, n_threads=1, max_running=64)
LOG = ("info", "console")


def spawn(spec: ModelSpec, fit: Fit) -> EngineProcess:
    return EngineProcess(CONFIG, log_level=LOG[0], log_format=LOG[1], module="bench.probes.fake_engine")


async def serve(port: int, state_dir: Path) -> None:
    publish_fakes(state_dir, {MODEL: HEADER})
    settings = Settings(
        models_dir=state_dir,
        models_lock=state_dir / "models.lock",
        state_dir=state_dir,
        max_running=64,
        max_waiting=192,
    )
    supervisor = Supervisor(spawn, FixedBudget({RAM: 1 << 40}), Planner())
    catalog = Catalog(settings, ModelStore(state_dir))
    state = compose(settings, catalog, supervisor, MachineProbe({}), logs.RecentLines())
    options = AppOptions(admin=AdminToken(state_dir), allowed_hosts=(), cors_origins=(), max_body_bytes=8 << 20)
    server = Server(create_app(state, options), ServerOptions(drain_s=0.0), on_stop=supervisor.drain)
    with socket.create_server(("127.0.0.1", port), backlog=256) as listener:
        serving = asyncio.create_task(server.run_until_stopped(listener, supervisor.stop))
        await supervisor.load(catalog.resolve(None).spec)
        await serving


def main() -> None:
    logs.configure(*LOG)
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2])))


if __name__ == "__main__":
    main()
