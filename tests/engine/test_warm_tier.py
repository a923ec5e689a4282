"""Prompts that begin with what an earlier engine has computed, and what is wrong with its files."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from appliance.engine import kv_worker
from appliance.engine.kv_file import KVKey
from appliance.engine.kv_folder import Stored
from appliance.engine.messages import Accepted, Failed, Finished
from appliance.engine.params import SamplingParams
from appliance.engine.warm_tier import READ_WAIT_S
from tests.factories import submit
from tests.warm_engine import LONG, Engine, file_in, n_cached, save_one, text


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_one(tmp_path)


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


def test_what_one_adapter_has_computed_is_for_no_other(tmp_path: Path) -> None:
    lanes: dict[str, Any] = {"n_lanes": 2, "adapters": ("A", "B")}
    engine = Engine(tmp_path, **lanes)
    engine.run(submit(LONG, adapter="A", max_tokens=1))
    engine.core.save_all(20)
    again = Engine(tmp_path, **lanes)
    cached = [n_cached(again.run(submit(LONG, adapter=adapter, max_tokens=1))) for adapter in ("", "B", "A")]
    assert cached == [[0], [0], [400]]


def test_a_lane_that_has_another_adapter_now_gets_nothing_of_it(tmp_path: Path) -> None:
    lanes: dict[str, Any] = {"n_lanes": 2, "adapters": ("A", "B")}
    engine = Engine(tmp_path, **lanes)
    engine.run(submit(LONG, adapter="A", max_tokens=1))
    engine.core.save_all(20)
    again = Engine(tmp_path, **lanes)
    again.core.submit(submit(LONG, request_id="r", adapter="A", max_tokens=2))
    again.core.submit(submit("a", adapter="B", max_tokens=100, ignore_eos=True))
    again.wait()
    assert again.core.submit_ready() == [Accepted("r", 401)]
    assert text(again.run(), "r") == "BC"
    assert again.counts.n_restored == 0


def test_what_can_not_be_cut_is_used_as_a_whole(tmp_path: Path) -> None:
    engine = Engine(tmp_path, can_cut_prefix=False)
    engine.run(submit(LONG, max_tokens=1))
    engine.core.save_all(20)
    again = Engine(tmp_path, can_cut_prefix=False)
    events = again.run(submit("1" * 300 + "x", request_id="r", max_tokens=2))
    assert text(events, "r") == "yz"
    assert n_cached(events)[0] < 300  # at most a checkpoint
    (cached,) = n_cached(again.run(submit(LONG + "2" * 20, max_tokens=1)))
    assert cached > 300


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


@pytest.mark.parametrize(("read_s_per_byte", "wanted"), [(0.1, 0), (0.001, 400)])
def test_a_disk_that_is_slower_than_computing_is_left_alone(saved: Path, read_s_per_byte: float, wanted: int) -> None:
    engine = Engine(saved)
    (lane,) = engine.core._lanes
    lane.pace.observe(n_prompt=100, n_decoding=0, step_s=1.0)
    engine.keeper._read_s_per_byte = read_s_per_byte
    assert n_cached(engine.run(submit(LONG, max_tokens=1))) == [wanted]


def test_a_disk_that_was_slow_once_is_tried_again(saved: Path) -> None:
    engine = Engine(saved)
    (lane,) = engine.core._lanes
    lane.pace.observe(n_prompt=100, n_decoding=0, step_s=1.0)
    engine.keeper._read_s_per_byte = 0.1
    for number in range(30):
        if not engine.core.submit(submit(LONG, request_id=str(number))):
            return
        engine.core.abort(str(number))
    pytest.fail("it was never tried again")


def test_without_memory_for_it_a_prompt_is_computed(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_worker, "_has_room", lambda n_bytes: False)
    engine = Engine(saved)
    assert n_cached(engine.run(submit(LONG, max_tokens=1))) == [0]
    assert engine.counts.rejected == {"unread": 1}
    assert file_in(saved).exists()


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
