"""``python -m bench.probes.gateway PORT STATE_DIR``: a gateway as in service, but its engine is the fake one."""

from __future__ import annotations

import socket
import sys
from functools import partial
from pathlib import Path

import uvloop

from appliance import logs
from appliance.api.app import AppOptions, create_app
from appliance.api.server import Server, ServerOptions
from appliance.api.state import AppState
from appliance.engine.client import EngineProcess
from appliance.models.gguf_header import GGUFHeader
from appliance.models.store import Record, StoredModel
from appliance.service.activity import Activity
from appliance.service.inference import Inference
from appliance.service.metrics import Metrics
from appliance.state.keys import AdminToken
from appliance.supervisor.supervisor import Supervisor
from bench.engine_config import config_for
from bench.probes.fake_engine import N_CTX

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


async def serve(port: int, state_dir: Path) -> None:
    record = Record(
        schema=1, name=MODEL, gguf_sha256="0" * 64, gguf_bytes=1, mtime_ns=0, inode=0, quantization="F32", header=HEADER
    )
    stored = StoredModel(Path("/nowhere"), record)
    spawn = partial(EngineProcess, CONFIG, log_level=LOG[0], log_format=LOG[1], module="bench.probes.fake_engine")
    supervisor = Supervisor(spawn, spawn(), max_open=256)
    activity = Activity(Metrics(MODEL, lambda: supervisor.load))
    state = AppState(stored, supervisor, activity, Inference(supervisor, stored, activity))
    options = AppOptions(
        keys=None, admin=AdminToken(state_dir), allowed_hosts=(), cors_origins=(), max_body_bytes=8 << 20
    )
    server = Server(create_app(state, options), ServerOptions(drain_s=0.0), on_stop=supervisor.drain)
    with socket.create_server(("127.0.0.1", port), backlog=256) as listener:
        await server.run_until_stopped(listener, supervisor.stop)


def main() -> None:
    logs.configure(*LOG)
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2])))


if __name__ == "__main__":
    main()
