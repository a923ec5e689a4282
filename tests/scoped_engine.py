"""``python -m tests.scoped_engine FD LEVEL FORMAT``: an engine whose answers tell whose they are."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import sys
from dataclasses import replace

from appliance import logs
from appliance.engine.backend import OnProgress, Sampled
from appliance.engine.messages import EngineConfig
from appliance.engine.runner import run_engine
from appliance.engine.step import StepPlan
from tests.fake_backend import FakeBackend
from tests.fake_embedder import load_fake_embedder


def answer_of(scope: str, prompt: str) -> str:
    """What a request of this scope is answered, for as long as it goes on."""
    return hashlib.sha256(f"{scope} {prompt}".encode()).hexdigest()


class ScopedBackend(FakeBackend):
    def run(self, plan: StepPlan, lane: int = 0) -> list[Sampled]:
        sampled = super().run(plan, lane)
        sequences = [chunk.sequence for chunk in plan.chunks if chunk.wants_logits]
        found = []
        for sequence, result in zip(sequences, sampled, strict=True):
            prompt, n_said = bytes(sequence.tokens[: sequence.n_prompt]), len(sequence.tokens) - sequence.n_prompt
            found.append(replace(result, token=ord(answer_of(sequence.scope, prompt.decode())[n_said])))
        return found


def load(
    config: EngineConfig, on_progress: OnProgress = lambda ratio: True
) -> contextlib.AbstractContextManager[FakeBackend]:
    return contextlib.nullcontext(ScopedBackend(n_seq_max=config.max_running + 2))


if __name__ == "__main__":
    logs.configure(sys.argv[2], sys.argv[3])
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        run_engine(connection, load, load_fake_embedder)
