"""Adapters over the loop of a real engine: who computes where, and who waits for whom."""

from __future__ import annotations

from appliance.engine.core import EngineCore
from appliance.engine.messages import Event, Failed, Finished, Piece, Submit
from tests.factories import submit
from tests.fake_backend import FakeBackend


def backend(*, n_lanes: int = 3, adapters: str = "ABCD") -> FakeBackend:
    return FakeBackend(n_lanes=n_lanes, adapters=tuple(adapters))


def core(fake: FakeBackend, *, max_running: int = 4) -> EngineCore:
    return EngineCore(fake, n_batch=16, max_running=max_running, prefix_reuse=True, now=lambda: 0.0)


def run(engine: EngineCore, *messages: Submit) -> list[Event]:
    """All events until the engine is idle."""
    events = [event for message in messages for event in engine.submit(message)]
    while not engine.is_idle:
        events += engine.step()
    return events


def ends(events: list[Event]) -> list[str]:
    """The requests that have ended, in order."""
    return [event.request_id for event in events if isinstance(event, Finished)]


def text(events: list[Event], request_id: str) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece) and event.request_id == request_id)


def ask(adapter: str, prompt: str = "a", *, request_id: str | None = None, n_tokens: int = 4) -> Submit:
    return submit(prompt, request_id=request_id or adapter, adapter=adapter, max_tokens=n_tokens)


def lanes_of(fake: FakeBackend) -> list[tuple[int, set[str]]]:
    """Of each step, its lane and whose sequences it computed."""
    steps = zip(fake.step_lanes, fake.steps, strict=True)
    return [(lane, {chunk.sequence.request_id for chunk in plan.chunks}) for lane, plan in steps]


def test_lanes_with_work_take_turns_and_share_no_step() -> None:
    fake = backend()
    events = run(core(fake), ask("", request_id="base"), ask("A"), ask("B", "x", n_tokens=2))
    assert lanes_of(fake) == [
        (1, {"A"}),
        (2, {"B"}),
        (0, {"base"}),
        (1, {"A"}),
        (2, {"B"}),
        (0, {"base"}),
        (1, {"A"}),
        (0, {"base"}),
        (1, {"A"}),
        (0, {"base"}),
    ]
    assert fake.bound == ["", "A", "B"]
    assert (text(events, "base"), text(events, "A"), text(events, "B")) == ("bcde", "BCDE", "YZ")


def test_a_prefix_is_not_reused_by_another_adapter() -> None:
    fake = backend()
    engine = core(fake)
    run(engine, ask("A", "hello"))
    for adapter, n_cached in (("B", 0), ("", 0), ("A", 4)):
        finished = run(engine, ask(adapter, "hello"))[-1]
        assert isinstance(finished, Finished)
        assert finished.n_cached == n_cached, adapter


def test_the_lane_that_was_used_longest_ago_is_rebound_and_its_prefixes_are_forgotten() -> None:
    fake = backend()
    engine = core(fake)
    for adapter in "ABAC":
        run(engine, ask(adapter, "hello"))
    assert fake.bound == ["", "A", "C"]
    finished = run(engine, ask("B", "hello"))[-1]
    assert isinstance(finished, Finished)
    assert finished.n_cached == 0
    assert fake.bound == ["", "B", "C"]
    assert {lane for lane, _ in fake.slots} == {1, 2}, "what another adapter computed is still there"


def test_who_finds_no_idle_lane_waits_and_is_served_before_later_ones_of_a_bound_adapter() -> None:
    engine = core(backend(n_lanes=2))
    first = [ask("A", request_id="a1", n_tokens=6), ask("B", request_id="b1"), ask("A", request_id="a2")]
    events = [event for message in first for event in engine.submit(message)]
    assert (engine.load.n_running + engine.load.n_waiting) == 3
    events += run(engine)
    assert ends(events) == ["a1", "b1", "a2"]


def test_no_adapter_starves_while_others_have_work_without_end() -> None:
    """Each time an A or a B has ended, the next one is there already."""
    engine = core(backend())
    events = [event for adapter in "AB" for event in engine.submit(ask(adapter, request_id=f"{adapter}0", n_tokens=2))]
    events += [event for adapter in "CD" for event in engine.submit(ask(adapter))]
    for number in range(1, 30):
        events += [e for adapter in "AB" for e in engine.submit(ask(adapter, request_id=f"{adapter}{number}"))]
        events += engine.step()
    assert {"C", "D"} <= set(ends(events))
    assert len(ends(run(engine))) + len(ends(events)) == 2 + 2 + 2 * 29


def test_a_request_that_waits_for_a_lane_can_be_aborted_and_holds_nobody_up() -> None:
    fake = backend(n_lanes=2)
    engine = core(fake)
    for message in (ask("A", request_id="a1", n_tokens=20), ask("B"), ask("A", request_id="a2")):
        engine.submit(message)
    (event,) = engine.abort("B")
    assert isinstance(event, Finished)
    assert engine.abort("a2"), "it was behind B"
    assert engine._lanes.bound_to("A") is not None, "the lane of A is kept for somebody"
    engine.submit(ask("A", request_id="a3"))
    events = engine.step()
    events += engine.step()
    assert text(events, "a3"), "a3 waits for a lane that is its own"
    assert set(ends(events + run(engine))) == {"a1", "a3"}
    assert fake.bound == ["", "A"]
    assert not fake.samplers


def test_a_lane_that_was_kept_for_one_that_has_gone_takes_its_own_again() -> None:
    engine = core(backend(n_lanes=2))
    for message in (ask("A", request_id="a1", n_tokens=20), ask("B"), ask("A", request_id="a2")):
        engine.submit(message)
    engine.abort("B")
    assert text(engine.step() + engine.step(), "a2")
    assert set(ends(run(engine))) == {"a1", "a2"}


def test_who_has_got_a_lane_keeps_it_while_another_is_the_next_to_be_left() -> None:
    fake = backend()
    engine = core(fake)
    for adapter, number, n_tokens in (("A", 1, 20), ("A", 2, 20), ("B", 1, 1), ("C", 1, 20), ("C", 2, 20), ("D", 1, 1)):
        engine.submit(ask(adapter, request_id=f"{adapter}{number}", n_tokens=n_tokens))
    while fake.bound[2] != "C":
        engine.step()
    assert engine._lanes.bound_to("C") is not None
    assert engine._lanes.bound_to("A") is None, "D shall have the lane of A, which was used longest ago"
    assert set(ends(run(engine))) == {"A1", "A2", "C1", "C2", "D1"}


def test_all_that_is_open_fails_when_the_engine_stops() -> None:
    engine = core(backend(n_lanes=2))
    for message in (ask("A"), ask("B"), ask("C")):
        engine.submit(message)
    failed = engine.abort_all("engine_unavailable", "stopping")
    assert [event.request_id for event in failed if isinstance(event, Failed)] == ["A", "B", "C"]
    assert engine.is_idle


def test_an_adapter_that_the_model_was_loaded_without_is_an_error() -> None:
    (event,) = core(backend()).submit(ask("E"))
    assert isinstance(event, Failed)
    assert "loaded without the adapter E" in event.message


def test_the_load_is_that_of_all_lanes() -> None:
    engine = core(backend(n_lanes=2))
    for message in (ask("", "hello", request_id="base"), ask("A", "world"), ask("B")):
        engine.submit(message)
    engine.step()
    engine.step()
    load = engine.load
    assert (load.n_running, load.n_waiting, load.n_cells) == (2, 1, 512)
    assert load.n_cells_used == 5 + 5
