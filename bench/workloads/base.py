"""The interface of a workload, and the workloads over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import msgspec

from bench.bench import Bench
from bench.figures import Figure
from bench.peers.base import RunningPeer
from bench.rounds import LIMIT, STEAL_ONLY, Rounds, Sample, run_rounds

# A server that was left in the middle of an answer computes on for a while, and its thread pool polls for more.
_SETTLE_S = 0.2
_SETTLED_RATIO = 0.1
_SETTLE_TIMEOUT_S = 60.0


class Measured(msgspec.Struct, frozen=True):
    """What a workload gave. ``contestants`` maps names to what they are, ours first."""

    contestants: dict[str, str]
    rounds: Rounds
    settings: dict[str, int]


class Workload(Protocol):
    """``name`` is that of ``--only`` and of the results' file. ``has_model``: it measures the model of ``--gguf``.

    ``has_peers``: it wants llama.cpp's programs to compare with.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def figures(self) -> tuple[Figure, ...]: ...
    @property
    def has_model(self) -> bool: ...
    @property
    def has_peers(self) -> bool: ...

    async def run(self, bench: Bench) -> Measured:
        """Raises BenchError if it can't be measured."""


# Measures one server; the third argument is the round's number, of which every prompt is made.
MeasureServer = Callable[[Bench, RunningPeer, int], Awaitable[Sample]]


@dataclass(frozen=True)
class HttpWorkload:
    """Measures all servers, with the same settings and the same prompts in a round."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    n_ctx: int
    n_slots: int
    measure: MeasureServer
    has_model: bool = True
    has_peers: bool = True

    async def run(self, bench: Bench) -> Measured:
        servers = await bench.servers(bench.setup(n_ctx=self.n_ctx, n_slots=self.n_slots))
        contestants = {server.name: partial(self._measure, bench, server) for server in servers}
        limit = LIMIT if all(server.process is not None for server in servers) else STEAL_ONLY
        rounds = await run_rounds(contestants, bench.options.rounds, say=bench.say, limit=limit)
        return Measured(
            contestants={peer.name: peer.describe() for peer in bench.peers},
            rounds=rounds,
            settings={"n_threads": bench.options.n_threads, "n_ctx": self.n_ctx, "n_slots": self.n_slots},
        )

    async def _measure(self, bench: Bench, server: RunningPeer, round_number: int) -> Sample:
        sample = await self.measure(bench, server, round_number)
        await settle(server)
        return sample


async def settle(server: RunningPeer) -> None:
    """Waits until a server is idle, so that it doesn't disturb the next one."""
    if server.process is None:
        await asyncio.sleep(_SETTLE_S)
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SETTLE_TIMEOUT_S):
            used_ratio = 1.0
            while used_ratio > _SETTLED_RATIO:
                before_s = server.process.cpu_s()
                await asyncio.sleep(_SETTLE_S)
                used_ratio = (server.process.cpu_s() - before_s) / _SETTLE_S
