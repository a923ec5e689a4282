"""The warm tier: computed prefixes go from the KV cache to the disk, and come back for prompts that begin with them.

Between two steps nothing is done but to copy memory. A prompt whose prefix is read is kept back meanwhile; whatever is
wrong with the file, it is computed as if there were none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from appliance.engine.backend import Backend
from appliance.engine.kv_folder import Stored
from appliance.engine.kv_keeper import KVKeeper
from appliance.engine.kv_messages import WarmTierCounts
from appliance.engine.kv_worker import Fetched
from appliance.engine.lane import Lane
from appliance.engine.messages import Submit
from appliance.engine.slots import MIN_SAVED_TOKENS

# Nobody waits longer for a disk: then the prompt is computed.
READ_WAIT_S = 5.0
# An engine that has had nothing to do for so long saves what it retains.
IDLE_S = 1.0
# While it computes, so much time and so many steps lie between two copies: less than one step in a hundred is longer.
BUSY_INTERVAL_S = 1.0
BUSY_INTERVAL_STEPS = 200
# A prefix is written again when it has grown by this part, so that a long chat isn't written anew with each turn.
GROWTH_RATIO = 0.25


@dataclass(frozen=True, slots=True)
class Wait:
    """A prompt waits for the first ``n_tokens`` tokens of a file, until it is ``overdue_at``."""

    lane: Lane
    stored: Stored
    n_tokens: int
    overdue_at: float


@dataclass(frozen=True, slots=True)
class KeptBack:
    """A request that waits for something beside the engine: for its grammar, or with ``tokens`` for its prefix."""

    message: Submit
    tokens: list[int] | None = None
    wait: Wait | None = None


class WarmTier:
    def __init__(
        self,
        keeper: KVKeeper,
        backend: Backend,
        lanes: Iterable[Lane],
        *,
        idle_s: float = IDLE_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keeper = keeper
        self._backend = backend
        self._lanes = lanes
        self._idle_s = idle_s
        self._now = now
        self._idle_since: float | None = None
        self._is_disk_stuck = False
        self._copied_at = now()
        self._n_steps = 0  # since the latest copy
        keeper.can_cut = backend.info.can_cut_prefix
        keeper.collect()  # what was there at the start

    @property
    def counts(self) -> WarmTierCounts:
        return self._keeper.counts

    def look(self, lane: Lane, scope: str, tokens: list[int]) -> Wait | None:
        """Begins to read the file that saves computing most of a prompt; None: none is worth it."""
        if self._is_disk_stuck or len(tokens) <= MIN_SAVED_TOKENS:
            return None
        found = self._keeper.find(lane.adapter, scope, tokens[:-1])  # the last token is always computed
        if found is None or not self._is_wanted(lane, scope, tokens[:-1], found[0]):
            return None
        n_tokens, stored = found
        token_s = lane.pace.prompt_token_s
        if token_s and self._keeper.read_s(stored) > token_s * n_tokens:  # a fast GPU, a slow disk
            self._keeper.pass_over()
            return None
        self._keeper.fetch(stored)
        return Wait(lane, stored, n_tokens, self._now() + READ_WAIT_S)

    def end_waits(self, waits: Collection[Wait]) -> dict[Path, int | None]:
        """The files that nobody needs to wait for any longer, each with the slot that holds it now if one does.

        Such a slot is retained, and awaited: see :meth:`Slots.retain`.
        """
        ended: dict[Path, int | None] = {}
        for fetched in self._keeper.collect():
            self._is_disk_stuck = False
            path = fetched.stored.path
            waiting = [wait for wait in waits if wait.stored.path == path]
            if waiting:
                longest = max(waiting, key=lambda wait: wait.n_tokens)
                ended[path] = self._restore(longest, fetched)
        if waits:
            now = self._now()
            for wait in waits:
                if now >= wait.overdue_at and wait.stored.path not in ended:
                    self._is_disk_stuck = True
                    ended[wait.stored.path] = None
        return ended

    def step_done(self) -> None:
        self._n_steps += 1

    def save_due(self, *, is_idle: bool) -> None:
        """Copies one retained slot for the disk, if it is time for that."""
        self._keeper.set_engine_busy(not is_idle)
        now = self._now()
        if is_idle:
            if self._idle_since is None:
                self._idle_since = now
            if now - self._idle_since < self._idle_s:
                return
        else:
            self._idle_since = None
            if self._backend.info.n_gpu_layers:
                return  # each run of cells in each layer is a copy of its own, and the cells of streams alternate
            if self._n_steps < BUSY_INTERVAL_STEPS or now - self._copied_at < BUSY_INTERVAL_S:
                return
        if self._keeper.may_save and not self._save_next(only_reused=not is_idle, growth_ratio=GROWTH_RATIO):
            self._keeper.drop_buffer()

    def timeout_s(self, waits: Iterable[Wait]) -> float | None:
        """How long an engine that has nothing to do may do nothing, unless it is woken; None: for ever."""
        now = self._now()
        times = [wait.overdue_at for wait in waits]
        if self._idle_since is not None and self._keeper.may_save and self._candidate(False, GROWTH_RATIO) is not None:
            times.append(self._idle_since + self._idle_s)
        return max(0.0, min(times) - now) if times else None

    def close(self, timeout_s: float) -> None:
        """Saves what it can of all that is retained within this time, and ends the thread."""
        until = self._now() + timeout_s
        self._keeper.set_engine_busy(False)
        for lane in self._lanes:
            lane.scheduler.slots.unsettle()
        while (left_s := until - self._now()) > 0:
            self._keeper.collect()
            if self._keeper.is_saving:
                self._keeper.wait(left_s)
            elif not self._keeper.may_save or not self._save_next(only_reused=False, growth_ratio=0.0):
                break
        self._keeper.close(max(0.0, until - self._now()))

    def _is_wanted(self, lane: Lane, scope: str, tokens: list[int], n_tokens: int) -> bool:
        n_there, _ = lane.scheduler.slots.match(scope, tokens, exact=False)
        return n_tokens >= n_there + MIN_SAVED_TOKENS

    def _restore(self, wait: Wait, fetched: Fetched) -> int | None:
        """The slot in which a file's tokens are now; None: they are not, and are to be computed."""
        prefix = wait.stored.header.prefix
        tokens = prefix.token_list()
        scheduler, slots = wait.lane.scheduler, wait.lane.scheduler.slots
        if prefix.adapter != wait.lane.adapter:
            return None  # the lane computes with another one meanwhile
        if fetched.payload is None or not self._is_wanted(wait.lane, prefix.scope, tokens, wait.n_tokens):
            return None
        # All of it, also what is cut off at once.
        if not scheduler.make_room(len(tokens)) or (slot := slots.take(prefix.scope, None, 0)) is None:
            return None
        lane = wait.lane.number
        self._backend.apply_memory(slots.take_operations(), lane)
        if not self._backend.restore_state(slot, lane, fetched.payload, wait.n_tokens):
            slots.release(slot)
            self._keeper.refuse(wait.stored)
            return None
        # Seeds promise nothing of a prefix that was computed in another process.
        slots.tree.append(slot, tokens[: wait.n_tokens], exact=False)
        slots.retain(slot, is_awaited=True)
        self._keeper.restored(wait.n_tokens)
        return slot

    def _save_next(self, *, only_reused: bool, growth_ratio: float) -> bool:
        """Goes on with saving the slot that is next; false if there is none."""
        while (candidate := self._candidate(only_reused, growth_ratio)) is not None:
            lane, slot, tokens = candidate
            slots = lane.scheduler.slots
            self._backend.apply_memory(slots.take_operations(), lane.number)
            n_bytes = self._backend.state_bytes(slot, lane.number)
            if not self._keeper.may_hold(n_bytes):
                slots.settle(slot)
                continue
            buffer = self._keeper.buffer(n_bytes)
            if buffer is not None:  # else it is called again when there is one
                slots.settle(slot)
                self._copied_at, self._n_steps = self._now(), 0
                if self._backend.copy_state(slot, lane.number, buffer):
                    self._keeper.save(lane.adapter, slots.scope(slot), tokens, buffer)
            return True
        return False

    def _candidate(self, only_reused: bool, growth_ratio: float) -> tuple[Lane, int, list[int]] | None:
        """The slot that is to be saved next, and its tokens."""
        for lane in self._lanes:
            slots = lane.scheduler.slots
            while (slot := slots.next_to_save(only_reused=only_reused)) is not None:
                tokens = slots.tree.tokens(slot)
                found = self._keeper.find(lane.adapter, slots.scope(slot), tokens)
                n_there = found[0] if found is not None else 0
                if len(tokens) - n_there >= max(MIN_SAVED_TOKENS, n_there * growth_ratio):
                    return lane, slot, tokens
                slots.settle(slot)
        return None
