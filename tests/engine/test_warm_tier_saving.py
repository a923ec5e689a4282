"""When computed prefixes are copied for the disk, and which."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from appliance.engine import kv_folder
from appliance.engine.kv_keeper import OFF_S
from appliance.engine.kv_messages import WarmTierCounts
from appliance.engine.messages import Events
from appliance.engine.runner import Outbox
from appliance.engine.warm_tier import BUSY_INTERVAL_STEPS
from tests.factories import submit
from tests.fake_backend import STATE_MAGIC
from tests.warm_engine import LONG, Clock, Engine, file_in, file_in_or_none, n_cached, save_one


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_one(tmp_path)


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


def test_while_it_computes_on_a_gpu_nothing_is_copied(tmp_path: Path) -> None:
    engine = Engine(tmp_path, n_gpu_layers=10)
    for _ in range(2):
        engine.run(submit(LONG, max_tokens=1))
    engine.core.submit(submit("a", max_tokens=3000, ignore_eos=True))
    busy(engine, BUSY_INTERVAL_STEPS + 50)
    assert not engine.keeper.is_saving
    assert engine.backend.n_copied == 0


def test_while_it_computes_few_steps_are_longer_for_it(tmp_path: Path) -> None:
    engine = Engine(tmp_path, n_seq_max=20)
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


def test_what_an_idle_engine_has_saved_is_told_at_once(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    sent: list[Events] = []
    outbox = Outbox(sent.append, 0.01)
    engine.run(submit(LONG, max_tokens=1))
    outbox.flush_due(engine.core)
    engine.rest()
    for _ in range(3):
        outbox.flush_due(engine.core)
    told = [report.load.warm_tier.n_saved for report in sent if report.load.warm_tier is not None]
    assert told == [0, 1]
