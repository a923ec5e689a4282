"""What servers use while nothing is asked of them."""

from __future__ import annotations

import asyncio

from bench.bench import Bench
from bench.disturbance import Meter
from bench.figures import Figure, Target
from bench.rounds import Round, Rounds, Sample
from bench.workloads.base import Measured

DURATION_S = 20.0


class Idle:
    name = "idle"
    title = "idle, 20 s"
    has_model = True
    has_peers = True
    n_ctx = 32768
    n_slots = 8
    figures = (
        Figure("core_share_ratio", "processor time of all its processes, share of a core", Target("at most", 0.01)),
    )

    async def run(self, bench: Bench) -> Measured:
        servers = await bench.servers(bench.setup(n_ctx=self.n_ctx, n_slots=self.n_slots))
        watched = [(server.name, server.process) for server in servers if server.process is not None]
        # One measurement of all at the same time: the idle ones don't disturb each other.
        meter = Meter()
        before = [process.cpu_s() for _, process in watched]
        bench.say(f"  watching idle servers for {DURATION_S:.0f} s")
        await asyncio.sleep(DURATION_S)
        samples = {
            name: Sample({"core_share_ratio": (process.cpu_s() - used_s) / DURATION_S})
            for (name, process), used_s in zip(watched, before, strict=True)
        }
        described = {peer.name: peer.describe() for peer in bench.peers}
        settings = {"n_threads": bench.options.n_threads, "n_ctx": self.n_ctx, "n_slots": self.n_slots}
        return Measured(described, Rounds((Round(1, samples, meter.read()),), (), False), settings)
