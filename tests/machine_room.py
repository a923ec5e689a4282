"""A supervisor whose engines are real processes with fake models, on a machine of whatever size."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.engine.client import EngineProcess
from appliance.engine.messages import Failed, Finished, Piece, Submit
from appliance.errors import EngineFailed
from appliance.hardware.fit import Fit, Room, Wanted
from appliance.hardware.memory_use import RAM
from appliance.models.gguf_header import GGUFHeader
from appliance.models.store import RECORD_SCHEMA, Record, StoredModel
from appliance.supervisor.budget import Booking, FixedBudget
from appliance.supervisor.host import ModelHost
from appliance.supervisor.planner import Planner
from appliance.supervisor.spec import ModelSpec
from appliance.supervisor.supervisor import Rules, Supervisor
from tests.fake_backend import fake_path
from tests.fake_models import HEADER, shape
from tests.gateway import engine_config

MIB = 1 << 20


class LosableGPUs(FixedBudget):
    """GPUs that tests take away; without them there is RAM only."""

    lost: str | None = None

    def rooms(self, bookings: Sequence[Booking], freed: Sequence[Booking] = ()) -> tuple[Room, ...]:
        rooms = super().rooms(bookings, freed)
        return rooms[:1] if self.lost else rooms

    def lost_gpus(self) -> str | None:
        return self.lost


@dataclass
class MachineRoom:
    supervisor: Supervisor
    budget: LosableGPUs
    # What is told to the fake engines of each model, and how often each was started.
    orders: dict[str, dict[str, Any]]
    n_started: dict[str, int] = field(default_factory=dict)

    def spec(self, name: str, *, n_bytes: int = 10 * MIB, header: GGUFHeader = HEADER, **options: Any) -> ModelSpec:
        record = Record(
            schema=RECORD_SCHEMA,
            name=name,
            gguf_sha256=name.encode().hex().ljust(64, "0"),
            gguf_bytes=n_bytes,
            mtime_ns=0,
            inode=0,
            quantization="F32",
            header=header,
            shape=shape(n_bytes),
        )
        stored = StoredModel(Path("/nowhere"), record)
        wanted = options.pop("wanted", Wanted(n_ctx=256))
        return ModelSpec(**{"stored": stored, "wanted": wanted, "max_running": 4, "max_open": 200, **options})

    def host(self, spec: ModelSpec) -> ModelHost:
        return self.supervisor.host(spec)

    async def ask(self, spec: ModelSpec, prompt: str = "a", *, max_tokens: int = 3) -> str:
        """What the model says. Raises what a request would get."""
        text = ""
        message = Submit(uuid.uuid4().hex, tokens=tuple(prompt.encode()), max_tokens=max_tokens, ignore_eos=True)
        async with self.supervisor.engine(spec) as engine, engine.submit(message) as stream:
            while True:
                for event in await stream.next_events():
                    match event:
                        case Piece(_, _, piece, _):
                            text += piece
                        case Failed(_, _, reason, _):
                            raise EngineFailed(reason)
                        case Finished():
                            return text


@contextlib.asynccontextmanager
async def machine_room(
    *, limits: dict[str, int] | None = None, rules: Rules | None = None, orders: dict[str, dict[str, Any]] | None = None
) -> AsyncIterator[MachineRoom]:
    """``limits``: bytes of each device; ``orders``: fields of :class:`FakeModel` for each model."""
    budget = LosableGPUs(limits or {RAM: 1 << 40})

    def spawn(spec: ModelSpec, fit: Fit) -> EngineProcess:
        name = spec.stored.name
        room.n_started[name] = room.n_started.get(name, 0) + 1
        config = engine_config(n_ctx=fit.run.n_ctx, model_path=fake_path(**room.orders.get(name, {})))
        config = type(config)(
            **{n: getattr(config, n) for n in config.__struct_fields__ if n not in ("n_gpu_layers", "pooling")},
            n_gpu_layers=fit.run.n_gpu_layers,
            pooling=spec.stored.record.header.pooling,
        )
        return EngineProcess(config, log_level="warning", log_format="console", module="tests.fake_engine")

    room = MachineRoom(Supervisor(spawn, budget, Planner(), rules), budget, orders or {})
    try:
        yield room
    finally:
        await room.supervisor.stop()


async def until(condition: Any) -> None:
    """Waits until ``condition()`` is true, on the running event loop."""
    while not condition():
        await asyncio.sleep(0.005)
