"""What every workload gets: the options of this run, the model, and servers that run."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.binaries import Binaries
from bench.ggufs import Gguf
from bench.load import complete
from bench.peers.base import Peer, RunningPeer, Setup
from bench.progress import Progress
from bench.prompts import words

# Of a core, over a second: a server that uses more while nothing is asked of it disturbs the others' measurements.
_MAX_IDLE_RATIO = 0.1
_IDLE_S = 1.0
# A thread pool may poll for so long after its last step.
_SETTLE_S = 1.0


@dataclass(frozen=True)
class Options:
    """``rounds``: how many are wanted of each workload. ``is_quick``: smaller workloads where they take long."""

    n_threads: int
    rounds: int
    is_quick: bool
    scratch: Path


class Bench:
    """Use with ``async with``: servers are kept between workloads that want the same setup, and end with it."""

    def __init__(
        self, options: Options, gguf: Gguf, peers: tuple[Peer, ...], binaries: tuple[Binaries, ...], say: Progress
    ) -> None:
        """``peers``: ours first."""
        self.options = options
        self.gguf = gguf
        self.peers = peers
        self.binaries = binaries
        self.say = say
        self._stack = AsyncExitStack()
        self._setup: Setup | None = None
        self._running: tuple[RunningPeer, ...] = ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop_servers()

    @property
    def scratch(self) -> Path:
        return self.options.scratch

    def setup(self, *, n_ctx: int, n_slots: int) -> Setup:
        return Setup(self.gguf.path, self.options.n_threads, n_ctx, n_slots)

    async def servers(self, setup: Setup) -> tuple[RunningPeer, ...]:
        """All peers, running as ``setup`` says, warm and idle; ours first. Raises BenchError."""
        if setup != self._setup:
            await self.stop_servers()
            self.say(f"starting servers: {setup.n_slots} slots, context {setup.n_ctx}, {setup.n_threads} threads")
            for number, peer in enumerate(self.peers):
                log = self.scratch / f"server-{number}.log"
                running = await self._stack.enter_async_context(peer.serve(setup, log))
                self._running += (running,)
                # The first request brings the weights into memory.
                await complete(running.endpoint, [words(30, "warm", peer.name)], max_tokens=8)
            await self._check_idle()
            self._setup = setup
        return self._running

    async def stop_servers(self) -> None:
        self._setup = None
        self._running = ()
        await self._stack.aclose()

    async def _check_idle(self) -> None:
        await asyncio.sleep(_SETTLE_S)
        processes = [(peer.name, peer.process) for peer in self._running if peer.process is not None]
        before = [process.cpu_s() for _, process in processes]
        await asyncio.sleep(_IDLE_S)
        for (name, process), used_s in zip(processes, before, strict=True):
            ratio = (process.cpu_s() - used_s) / _IDLE_S
            if ratio > _MAX_IDLE_RATIO:
                self.say(f"  warning: {name} uses {ratio:.0%} of a core while idle, which slows the others down")
