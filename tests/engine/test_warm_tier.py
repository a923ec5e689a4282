"""Computed prefixes that survive their engine: the engine's loop without its IO, with real files and a fake model."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from appliance.engine import kv_folder
from appliance.engine.core import EngineCore
from appliance.engine.kv_file import KVKey
from appliance.engine.kv_folder import KVFolder, Stored
from appliance.engine.kv_keeper import OFF_S, KVKeeper
from appliance.engine.messages import Accepted, Event, Failed, Finished, Piece, Submit, WarmTierCounts
from appliance.engine.params import SamplingParams
from appliance.engine.warm_tier import BUSY_INTERVAL_STEPS, READ_WAIT_S
from tests.factories import submit
from tests.fake_backend import STATE_MAGIC, FakeBackend

LONG = "1" * 400 + "a"
KEY = KVKey("5ha", "fake", "f16", "f16")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Engine:
    """One that was just started, over the files of those before it."""

    def __init__(self, root: Path, *, n_ctx: int = 4000, max_bytes: int = 1 << 20, key: KVKey = KEY) -> None:
        self.clock = Clock()
        self.backend = FakeBackend(n_ctx=n_ctx, n_ctx_train=n_ctx)
        self.folder = KVFolder(root, key, max_bytes=max_bytes, min_free_bytes=0)
        self.woken = threading.Event()
        self.keeper = KVKeeper(self.folder, self.woken.set, now=self.clock)
        self.keeper.wait_for_scan(20)
        self.woken.clear()
        self.core = EngineCore(
            self.backend, n_batch=512, max_running=4, prefix_reuse=True, now=self.clock, keeper=self.keeper
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


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with one file, of LONG and two more tokens."""
    engine = Engine(tmp_path)
    engine.run(submit(LONG, max_tokens=3))
    engine.rest()
    assert engine.counts == WarmTierCounts(n_saved=1)
    return tmp_path


def file_in(root: Path) -> Path:
    (path,) = root.rglob("*.kv")
    return path


def file_in_or_none(root: Path) -> Path | None:
    return next(root.rglob("*.kv"), None)


def test_a_prefix_outlives_its_engine(saved: Path) -> None:
    engine = Engine(saved)
    events = engine.run(submit(LONG, request_id="r", max_tokens=3))
    assert (text(events, "r"), n_cached(events)) == ("bcd", [400])
    assert engine.n_computed == 1 + 2  # the prompt's last token, and the answer
    assert (engine.counts.n_restored, engine.counts.n_tokens_restored) == (1, 400)
    assert events[0] == Accepted("r", 401)


def test_a_prompt_that_goes_on_from_it_begins_behind_it(saved: Path) -> None:
    assert n_cached(Engine(saved).run(submit(LONG + "bcd" + "2" * 50))) == [403]


def test_what_shares_only_its_beginning_is_cut(saved: Path) -> None:
    engine = Engine(saved)
    events = engine.run(submit("1" * 300 + "x", request_id="r", max_tokens=2))
    assert (text(events, "r"), n_cached(events)) == ("yz", [300])


def test_a_short_common_beginning_is_computed(saved: Path) -> None:
    engine = Engine(saved)
    assert n_cached(engine.run(submit("1" * 255 + "x"))) == [0]
    assert engine.counts.n_restored == 0


def test_what_is_in_the_kv_cache_is_not_read(saved: Path) -> None:
    engine = Engine(saved)
    engine.run(submit("1" * 200))
    engine.run(submit(LONG))  # 200 more are too few
    assert engine.counts.n_restored == 0


def test_several_that_wait_for_a_file_share_one_reading(saved: Path) -> None:
    engine = Engine(saved)
    events = engine.run(*(submit(LONG + end, request_id=end, max_tokens=1) for end in "xyz"))
    assert sorted(n_cached(events)) == [401, 401, 401]
    assert engine.counts.n_restored == 1


def test_another_scope_gets_nothing_of_it(saved: Path) -> None:
    assert n_cached(Engine(saved).run(submit(LONG, scope="other"))) == [0]


def test_a_seeded_request_takes_nothing_from_another_process(saved: Path) -> None:
    assert n_cached(Engine(saved).run(submit(LONG, params=SamplingParams(seed=1)))) == [0]


def test_an_engine_of_another_build_begins_anew(saved: Path) -> None:
    engine = Engine(saved, key=KVKey("5ha", "other", "f16", "f16"))
    assert n_cached(engine.run(submit(LONG))) == [0]
    assert file_in(saved).exists()


def test_a_damaged_file_is_removed_and_its_prompt_computed(saved: Path) -> None:
    path = file_in(saved)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    engine = Engine(saved)
    events = engine.run(submit(LONG, request_id="r", max_tokens=3))
    assert (text(events, "r"), n_cached(events)) == ("bcd", [0])
    assert engine.counts.rejected == {"damaged": 1}
    assert not path.exists()


def test_a_file_that_was_damaged_before_the_start_is_told(saved: Path) -> None:
    file_in(saved).write_bytes(b"")
    assert Engine(saved).counts.rejected == {"truncated": 1}


def test_a_state_that_the_backend_does_not_take_is_removed_and_its_prompt_computed(saved: Path) -> None:
    engine = Engine(saved)
    engine.backend.refuses_states = True
    events = engine.run(submit(LONG, request_id="r", max_tokens=3))
    assert (text(events, "r"), n_cached(events)) == ("bcd", [0])
    assert engine.counts.rejected == {"refused": 1}
    engine.core.save_all(20)
    assert engine.counts.n_restored == 0
    assert file_in(saved).exists()  # written anew


def test_one_that_is_aborted_while_it_waits_leaves_nothing_behind(saved: Path) -> None:
    engine = Engine(saved)
    assert engine.core.submit(submit(LONG, request_id="r")) == []
    assert engine.core.load.n_waiting == 1
    assert engine.core.abort("r") == [Finished("r", 0, 0, 0)]
    engine.wait()
    assert engine.core.submit_ready() == []
    assert engine.core.load.n_retained == 0
    assert n_cached(engine.run(submit(LONG))) == [400]  # and it is still there


def test_one_that_waits_when_the_engine_stops_fails_once(saved: Path) -> None:
    engine = Engine(saved)
    engine.core.submit(submit(LONG, request_id="r"))
    assert engine.core.abort_all("stopping", "bye") == [Failed("r", "stopping", "bye")]
    engine.core.save_all(20)


def test_one_that_is_refused_after_it_has_waited_leaves_its_room(saved: Path) -> None:
    engine = Engine(saved)
    engine.core.submit(submit(LONG, params=SamplingParams(logit_bias={1: 1.0})))
    engine.wait()
    (failed,) = engine.core.submit_ready()
    assert isinstance(failed, Failed)
    assert n_cached(engine.run(submit(LONG))) == [400]
    for number in range(60):  # while nothing is found again, little is retained, of what is restored, too
        engine.run(submit(f"{number:03}" * 40, max_tokens=1))
    assert engine.core.load.n_cells_used < 400


def test_without_room_beside_those_that_run_it_is_computed(saved: Path) -> None:
    engine = Engine(saved, n_ctx=700)
    engine.core.submit(submit("2" * 350, request_id="running", max_tokens=300, ignore_eos=True))
    engine.core.step()
    engine.core.submit(submit(LONG, request_id="r", max_tokens=2))
    engine.wait()
    assert text(engine.run(), "r") == "bc"
    assert engine.counts.n_restored == 0
    assert not engine.counts.rejected


def test_a_disk_that_hangs_delays_one_request_and_no_other(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(saved)
    hangs, read = threading.Event(), engine.folder.read

    def hang(stored: Stored) -> memoryview:
        assert hangs.wait(20)
        return read(stored)

    monkeypatch.setattr(engine.folder, "read", hang)
    engine.core.submit(submit(LONG, request_id="r"))
    assert engine.core.timeout_s == READ_WAIT_S
    engine.clock.now += READ_WAIT_S
    assert engine.core.submit_ready() == [Accepted("r", 401)]
    assert engine.core.submit(submit(LONG, request_id="next")) == [Accepted("next", 401)]
    hangs.set()
    engine.run()
    assert engine.counts.n_restored == 0


def test_it_is_saved_when_nothing_has_been_asked_for_a_while(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.run(submit(LONG))
    engine.core.save_due()
    assert engine.core.timeout_s == 1.0
    assert not engine.keeper.is_saving
    engine.clock.now += 1.0
    engine.core.save_due()
    assert engine.keeper.is_saving


def test_a_request_begins_the_while_anew(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.run(submit(LONG))
    engine.core.save_due()
    engine.clock.now += 0.9
    engine.core.submit(submit("a", max_tokens=1))
    engine.core.save_due()
    engine.run()
    engine.core.save_due()
    assert engine.core.timeout_s == pytest.approx(1.0)


def test_a_chat_is_written_again_when_it_has_grown_by_a_quarter(saved: Path) -> None:
    engine = Engine(saved)
    engine.run(submit(LONG + "bcd" + "2" * 200, max_tokens=1))
    engine.rest()
    assert engine.counts.n_saved == 0
    engine.run(submit(LONG + "bcd" + "2" * 300, max_tokens=1))
    engine.rest()
    assert engine.counts.n_saved == 1
    file_in(saved)  # which is the only one: it has all that the first one had


def test_a_stop_saves_what_was_not_worth_it_before(saved: Path) -> None:
    engine = Engine(saved)
    engine.run(submit("3" * 1200, max_tokens=1))
    engine.rest()
    prompt = "3" * 1200 + "2" * 270
    engine.run(submit(prompt, max_tokens=1))
    engine.rest()
    assert engine.counts.n_saved == 1
    engine.core.save_all(20)
    assert n_cached(Engine(saved).run(submit(prompt, max_tokens=1))) == [1469]


def test_a_stop_saves_all_that_is_retained(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    prompts = [digit * 300 for digit in "123"]
    engine.run(*(submit(prompt, request_id=prompt[0], max_tokens=1) for prompt in prompts))
    engine.core.save_all(20)
    again = Engine(tmp_path)
    assert [n_cached(again.run(submit(prompt, max_tokens=1))) for prompt in prompts] == [[299]] * 3


def test_a_stop_does_not_wait_for_a_disk_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tmp_path)
    engine.run(submit(LONG))
    hangs = threading.Event()

    def hang(*arguments: object) -> None:
        hangs.wait(20)

    monkeypatch.setattr(kv_folder.os, "posix_fallocate", hang)
    monkeypatch.setattr(Clock, "__call__", lambda self: time.monotonic())
    began_at = time.monotonic()
    engine.core.save_all(0.2)
    assert time.monotonic() - began_at < 10
    assert not file_in_or_none(tmp_path)
    hangs.set()
    engine.keeper.close(20)
    assert not list(tmp_path.rglob("*.*"))  # it was given up, and left nothing


def test_one_off_prompts_are_not_written_for_ever(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    for number in range(30):
        engine.run(submit(chr(ord("A") + number) + "1" * 300, max_tokens=1))
        engine.rest()
    assert 10 <= engine.counts.n_saved <= 20


def busy(engine: Engine, n_steps: int) -> None:
    """Steps of a long answer, with what the loop does between them."""
    for _ in range(n_steps):
        engine.core.submit_ready()
        engine.core.step()
        engine.clock.now += 0.05
        engine.core.save_due()


def test_while_it_computes_only_what_was_used_twice_is_saved(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.run(submit(LONG, max_tokens=1), submit("2" * 400, max_tokens=1))
    engine.core.submit(submit("a", request_id="long", max_tokens=3000, ignore_eos=True))
    busy(engine, BUSY_INTERVAL_STEPS + 5)
    assert not engine.keeper.is_saving
    engine.core.submit(submit(LONG + "b", max_tokens=1))
    busy(engine, 10)
    assert engine.keeper.is_saving  # memory for it
    engine.wait()
    busy(engine, 1)
    engine.wait()
    engine.core.submit_ready()
    assert engine.counts.n_saved == 1
    assert engine.backend.n_copied == 1


def test_while_it_computes_few_steps_are_longer_for_it(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    for digit in "123456":
        engine.run(submit(digit * 300, max_tokens=1))
        engine.run(submit(digit * 300, max_tokens=1))
    engine.core.submit(submit("a", max_tokens=3000, ignore_eos=True))
    for _ in range(4 * BUSY_INTERVAL_STEPS):
        busy(engine, 1)
        if engine.keeper.is_saving:
            engine.wait()
    assert 2 <= engine.backend.n_copied <= 4


def test_a_full_disk_turns_saving_off_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tmp_path)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(kv_folder.os, "posix_fallocate", full)
        engine.run(submit(LONG, max_tokens=1))
        engine.rest()
    assert engine.counts == WarmTierCounts(n_unsaved=1)
    assert not list(tmp_path.rglob("*.*"))
    engine.run(submit("2" * 400, max_tokens=1))
    engine.rest()
    assert engine.counts.n_saved == 0
    engine.clock.now += OFF_S
    engine.rest()
    assert engine.counts.n_saved == 1


def test_what_is_too_large_for_the_limit_is_not_copied(tmp_path: Path) -> None:
    engine = Engine(tmp_path, max_bytes=300)
    engine.run(submit(LONG, max_tokens=1))
    engine.rest()
    engine.core.save_all(20)
    assert engine.backend.n_copied == 0


def test_a_copy_holds_what_its_slot_held(tmp_path: Path, saved: Path) -> None:
    (stored,) = Engine(saved).folder.scan(lambda path, error: None)
    assert bytes(Engine(saved).folder.read(stored)) == STATE_MAGIC + (LONG + "bc").encode()
