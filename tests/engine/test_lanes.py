from __future__ import annotations

from appliance.engine.lane import Lane, Lanes
from tests.factories import sequence
from tests.fake_backend import FakeBackend


def lanes(n: int) -> Lanes:
    info = FakeBackend().info
    return Lanes(
        [Lane(number, info, n_batch=16, max_running=4, prefix_reuse=True, prompt_step_s=0.25) for number in range(n)]
    )


def test_lanes_with_work_take_turns() -> None:
    three = lanes(3)
    _, first, second = three
    for lane in (first, second):
        lane.scheduler.add(sequence(prompt=40))
    turns = []
    for _ in range(4):
        lane, plan = three.schedule()
        assert plan.chunks
        lane.scheduler.apply(plan, [])
        turns.append(lane.number)
    assert turns == [1, 2, 1, 2]
