"""An engine without its IO over a folder of computed prefixes, and a fake model."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from appliance.engine.backend import Backend
from appliance.engine.core import EngineCore
from appliance.engine.kv_file import KVKey
from appliance.engine.kv_folder import KVFolder
from appliance.engine.kv_keeper import KVKeeper
from appliance.engine.kv_messages import WarmTierCounts
from appliance.engine.messages import (
    Event,
    Finished,
    Piece,
    Submit,
)
from tests.factories import submit
from tests.fake_backend import FakeBackend

LONG = "1" * 400 + "a"
KEY = KVKey("5ha", "fake", "f16", "f16")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Engine:
    """One that was just started, over the files of those before it."""

    def __init__(
        self,
        root: Path,
        *,
        n_ctx: int = 4000,
        max_bytes: int = 1 << 20,
        key: KVKey = KEY,
        model: Backend | None = None,
        **backend: Any,
    ) -> None:
        """``backend``: how the fake one is. ``model``: another one than that."""
        self.clock = Clock()
        self.backend = FakeBackend(n_ctx=n_ctx, n_ctx_train=n_ctx, **backend)
        self.folder = KVFolder(root, key, max_bytes=max_bytes, min_free_bytes=0)
        self.woken = threading.Event()
        self.keeper = KVKeeper(self.folder, self.woken.set, now=self.clock)
        self.keeper.wait_for_scan(20)
        self.woken.clear()
        self.core = EngineCore(
            model or self.backend, n_batch=512, max_running=4, prefix_reuse=True, now=self.clock, keeper=self.keeper
        )

    @property
    def counts(self) -> WarmTierCounts:
        counts = self.core.load.warm_tier
        assert counts is not None
        return counts

    @property
    def n_computed(self) -> int:
        return sum(chunk.n_tokens for plan in self.backend.steps for chunk in plan.chunks)

    def wait(self) -> None:
        """Until the other thread has something to tell."""
        assert self.woken.wait(20)
        self.woken.clear()

    def run(self, *messages: Submit) -> list[Event]:
        """All events until the engine is idle."""
        events = [event for message in messages for event in self.core.submit(message)]
        while self.core.load.n_waiting or not self.core.is_idle:
            if self.core.is_idle:
                self.wait()
            events += self.core.submit_ready()
            if not self.core.is_idle:
                events += self.core.step()
        return events

    def rest(self) -> None:
        """Has nothing to do until there is nothing left to save."""
        self.core.save_due()
        while self.core.timeout_s is not None or self.keeper.is_saving:
            if self.keeper.is_saving:
                self.wait()
            self.clock.now += self.core.timeout_s or 0.0
            self.core.submit_ready()
            self.core.save_due()


def text(events: list[Event], request_id: str) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece) and event.request_id == request_id)


def n_cached(events: list[Event]) -> list[int]:
    return [event.n_cached for event in events if isinstance(event, Finished)]


def save_one(root: Path) -> Path:
    """A folder with one file, of LONG and two more tokens."""
    engine = Engine(root)
    engine.run(submit(LONG, max_tokens=3))
    engine.rest()
    assert engine.counts == WarmTierCounts(n_saved=1, used_bytes=file_in(root).stat().st_size)
    return root


def file_in(root: Path) -> Path:
    (path,) = root.rglob("*.kv")
    return path


def file_in_or_none(root: Path) -> Path | None:
    return next(root.rglob("*.kv"), None)
