"""``python -m bench.probes.gateway PORT STATE_DIR``: a gateway as in service, but its engine is the fake one.

With ``--answers N`` it has a response cache, in which so many answers are stored before it serves: those of
:func:`bench.stored_answers.stored_chat`. Without, it has none.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import uvloop

from appliance import logs
from appliance.api.app import AppOptions, create_app
from appliance.api.server import Server, ServerOptions
from appliance.api.state import AppState, compose
from appliance.cache.answer import Answer
from appliance.cache.key import answer_key
from appliance.cache.store import ResponseCache
from appliance.engine.client import EngineProcess
from appliance.hardware.fit import Fit
from appliance.hardware.machine import MachineProbe
from appliance.hardware.memory_use import RAM
from appliance.models.gguf_header import GGUFHeader
from appliance.models.store import ModelStore
from appliance.schemas.chat import ChatRequest
from appliance.service.catalog import Catalog
from appliance.service.context import RequestContext
from appliance.settings import Settings
from appliance.state.keys import AdminToken
from appliance.supervisor.budget import FixedBudget
from appliance.supervisor.planner import Planner
from appliance.supervisor.spec import ModelSpec
from appliance.supervisor.supervisor import Supervisor
from bench.engine_config import config_for
from bench.probes.fake_engine import N_CTX
from bench.stored_answers import store, stored_answer, stored_chat
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
# More than all that a run stores.
CACHE_BYTES = 4 << 30


def spawn(spec: ModelSpec, fit: Fit) -> EngineProcess:
    return EngineProcess(CONFIG, log_level=LOG[0], log_format=LOG[1], module="bench.probes.fake_engine")


def stored(state: AppState, n_answers: int) -> Iterator[tuple[bytes, Answer]]:
    """Answers under the keys by which this gateway will look for them."""
    model = state.catalog.resolve(None)
    context = RequestContext("stored", arrived_at=0.0)
    for number in range(n_answers):
        completion = state.inference.chat(ChatRequest.model_validate(stored_chat(number)), context)
        (generation,) = completion.generations
        yield answer_key(model.identity, generation.submit), stored_answer(number)


async def serve(port: int, state_dir: Path, n_answers: int | None) -> None:
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
    cache = ResponseCache(state_dir / "responses.db", max_bytes=CACHE_BYTES) if n_answers is not None else None
    state = compose(settings, catalog, supervisor, MachineProbe({}), logs.RecentLines(), cache)
    if cache is not None:
        cache.start()
        await store(cache, stored(state, n_answers or 0))
    options = AppOptions(admin=AdminToken(state_dir), allowed_hosts=(), cors_origins=(), max_body_bytes=8 << 20)
    server = Server(create_app(state, options), ServerOptions(drain_s=0.0), on_stop=supervisor.drain)
    with socket.create_server(("127.0.0.1", port), backlog=256) as listener:
        serving = asyncio.create_task(server.run_until_stopped(listener, supervisor.stop))
        await supervisor.load(catalog.resolve(None).spec)
        await serving
    if cache is not None:
        await cache.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("state_dir", type=Path)
    parser.add_argument("--answers", type=int)
    given = parser.parse_args()
    logs.configure(*LOG)
    uvloop.run(serve(given.port, given.state_dir, given.answers))


if __name__ == "__main__":
    main()
