"""Who comes next: classes, shares of the keys, ageing."""

from __future__ import annotations

import pytest

from appliance.engine.order import AGEING_STEPS
from appliance.engine.scheduler import Scheduler
from appliance.engine.sequence import Sequence
from tests.factories import scheduler, sequence


def step(sched: Scheduler) -> dict[str, int]:
    """Computes a step; how many tokens of each key's sequences were in it."""
    plan = sched.schedule()
    sched.apply(plan, [7 for chunk in plan.chunks if chunk.wants_logits])
    sched.check_integrity()
    tokens: dict[str, int] = {}
    for chunk in plan.chunks:
        tokens[chunk.sequence.key] = tokens.get(chunk.sequence.key, 0) + chunk.n_tokens
    return tokens


def add(sched: Scheduler, *sequences: Sequence) -> None:
    for one in sequences:
        sched.add(one)


def is_running(one: Sequence) -> bool:
    return one.slot is not None


def run_with_answers_of(sched: Scheduler, sequences: list[Sequence], *, n_completion: int, n_steps: int) -> list[str]:
    """Runs steps, finishing each sequence that has its answer; the keys of those that finished, in order."""
    finished = []
    for _ in range(n_steps):
        step(sched)
        for one in [s for s in sequences if s.n_completion >= n_completion]:
            sched.finish(one)
            sequences.remove(one)
            finished.append(one.key)
    return finished


def test_a_key_with_much_in_the_queue_makes_way_at_once_for_anothers_single_request() -> None:
    sched = scheduler(max_running=4)
    hog = [sequence(key="hog") for _ in range(20)]
    add(sched, *hog)
    step(sched)
    single = sequence(key="single")
    add(sched, single)
    step(sched)
    assert is_running(single)
    assert sum(map(is_running, hog)) == 3


def test_the_one_that_makes_way_is_its_keys_youngest_and_goes_on_where_it_was() -> None:
    sched = scheduler(max_running=2)
    hog = [sequence(key="hog", prompt=30) for _ in range(2)]
    add(sched, *hog)
    for _ in range(3):
        step(sched)
    single = sequence(key="single")
    add(sched, single)
    step(sched)
    assert [is_running(one) for one in (*hog, single)] == [True, False, True]
    n_before = len(hog[1].tokens)
    sched.finish(single)
    assert step(sched)["hog"] == 2, "nothing was computed again"
    assert len(hog[1].tokens) == n_before + 1


def test_no_more_than_its_share_is_taken_for_a_key() -> None:
    sched = scheduler(max_running=4)
    add(sched, *[sequence(key="first") for _ in range(10)])
    step(sched)
    second = [sequence(key="second") for _ in range(10)]
    add(sched, *second)
    for _ in range(3):
        step(sched)
    assert sum(map(is_running, second)) == 2


def test_a_keys_only_running_sequence_is_left_alone() -> None:
    sched = scheduler(max_running=1)
    first, second = sequence(key="first"), sequence(key="second")
    add(sched, first)
    step(sched)
    add(sched, second)
    step(sched)
    assert is_running(first)


@pytest.mark.parametrize(("weight", "wanted"), [(1.0, 2), (3.0, 3)])
def test_slots_are_shared_by_weight(weight: float, wanted: int) -> None:
    sched = scheduler(max_running=4)
    heavy = [sequence(key="heavy", weight=weight) for _ in range(10)]
    add(sched, *[sequence(key="light") for _ in range(10)], *heavy)
    for _ in range(3):
        step(sched)
    assert sum(map(is_running, heavy)) == wanted


def test_finished_requests_are_shared_by_weight() -> None:
    sched = scheduler(max_running=1, n_ctx=2000)
    waiting = [sequence(key="light") for _ in range(60)] + [sequence(key="heavy", weight=2.0) for _ in range(60)]
    add(sched, *waiting)
    finished = run_with_answers_of(sched, waiting, n_completion=3, n_steps=180)
    assert finished.count("heavy") / finished.count("light") == pytest.approx(2.0, rel=0.1)


def test_a_key_that_asks_for_long_answers_gets_fewer_of_them() -> None:
    sched = scheduler(max_running=1, n_ctx=4000)
    short, long = [sequence(key="short") for _ in range(99)], [sequence(key="long") for _ in range(99)]
    add(sched, *long, *short)
    tokens = {"short": 0, "long": 0}
    for _ in range(400):
        for key, n_tokens in step(sched).items():
            tokens[key] += n_tokens
        for group, n_completion in ((short, 4), (long, 16)):
            for one in [s for s in group if s.n_completion >= n_completion]:
                sched.finish(one)
                group.remove(one)
    assert tokens["short"] == pytest.approx(tokens["long"], rel=0.1)


def test_a_key_that_was_idle_has_saved_nothing_up() -> None:
    sched = scheduler(max_running=1, n_ctx=4000)
    early = [sequence(key="early") for _ in range(50)]
    add(sched, *early)
    run_with_answers_of(sched, early, n_completion=2, n_steps=60)
    late = [sequence(key="late") for _ in range(50)]
    add(sched, *late)
    finished = run_with_answers_of(sched, early + late, n_completion=2, n_steps=20)
    assert finished.count("late") <= finished.count("early") + 1


def test_a_short_prompt_of_another_key_is_computed_before_the_rest_of_a_long_one() -> None:
    sched = scheduler(n_batch=8)
    add(sched, sequence(key="long", prompt=100))
    step(sched)
    short = sequence(key="short", prompt=6)
    add(sched, short)
    assert step(sched) == {"long": 8}, "as much as the long one has had"
    assert step(sched) == {"short": 6, "long": 2}


def test_a_long_prompt_does_not_take_cells_beyond_its_keys_share_from_others() -> None:
    sched = scheduler(n_ctx=400, max_running=4)
    others = [sequence(key="others", prompt=80) for _ in range(4)]
    add(sched, *others)
    for _ in range(8):
        step(sched)
    add(sched, sequence(key="large", prompt=300))
    step(sched)
    assert sum(map(is_running, others)) == 4


def test_cells_are_taken_from_the_key_that_has_more_than_its_share() -> None:
    sched = scheduler(n_ctx=400, max_running=8)
    hog = [sequence(key="hog", prompt=85) for _ in range(4)]
    add(sched, *hog)
    for _ in range(8):
        step(sched)
    assert sum(map(is_running, hog)) == 4
    fair = sequence(key="fair", prompt=100)
    add(sched, fair)
    step(sched)
    assert is_running(fair)
    assert 1 <= sum(map(is_running, hog)) < 4


def test_the_batch_class_waits_for_all_that_is_interactive() -> None:
    sched = scheduler(max_running=1)
    batch = sequence(is_batch=True)
    interactive = [sequence() for _ in range(3)]
    add(sched, batch, *interactive)
    for one in interactive:
        step(sched)
        assert is_running(one)
        sched.finish(one)
    step(sched)
    assert is_running(batch)


def test_the_batch_class_makes_way_even_for_its_own_key() -> None:
    sched = scheduler(max_running=1)
    batch, interactive = sequence(is_batch=True), sequence()
    add(sched, batch)
    step(sched)
    add(sched, interactive)
    step(sched)
    assert (is_running(batch), is_running(interactive)) == (False, True)


def test_the_batch_class_is_preempted_first_when_cells_run_out() -> None:
    sched = scheduler(n_ctx=64, max_running=4)
    batch, interactive = sequence(prompt=10, is_batch=True), sequence(prompt=10)
    add(sched, batch, interactive)
    while sched.n_preempted == 0:
        step(sched)
    assert (is_running(batch), is_running(interactive)) == (False, True)


def test_no_batch_sequence_makes_way_for_one_that_does_not_fit_even_then() -> None:
    sched = scheduler(n_ctx=200, max_running=4)
    batch, interactive = sequence(prompt=40, is_batch=True), sequence(prompt=100)
    add(sched, interactive)
    step(sched)
    step(sched)
    add(sched, batch)
    step(sched)
    add(sched, sequence(prompt=150))
    step(sched)
    assert is_running(batch)


def test_a_batch_sequence_that_has_waited_long_is_served_like_the_others() -> None:
    sched = scheduler(max_running=1, n_ctx=100_000)
    batch = sequence(is_batch=True)
    add(sched, sequence(), batch)
    for _ in range(AGEING_STEPS):
        step(sched)
    add(sched, sequence())
    for one in [s for s in sched._running if s is not batch]:
        sched.finish(one)
    step(sched)
    assert is_running(batch)


def test_a_batch_sequence_does_not_age_while_it_runs() -> None:
    sched = scheduler(max_running=1, n_ctx=100_000)
    batch = sequence(is_batch=True)
    add(sched, batch)
    for _ in range(AGEING_STEPS + 1):
        step(sched)
    interactive = sequence()
    add(sched, interactive)
    step(sched)
    assert (is_running(batch), is_running(interactive)) == (False, True)


def test_a_key_that_only_went_on_with_an_answer_has_saved_nothing_up() -> None:
    sched = scheduler(n_ctx=100_000, n_batch=8, n_seq_max=16, max_running=8)
    add(sched, sequence(key="patient"))
    busy = [sequence(key="busy", prompt=30) for _ in range(40)]
    add(sched, *busy)
    run_with_answers_of(sched, busy, n_completion=2, n_steps=250)
    assert not busy
    add(sched, *[sequence(key="patient", prompt=300) for _ in range(4)])
    step(sched)
    single = sequence(key="busy", prompt=6)
    add(sched, single)
    for _ in range(40):  # as many tokens as its key had in eight slots when the last one started
        step(sched)
    assert single.n_completion > 0


def test_a_newcomer_does_not_profit_from_a_key_that_asks_for_little() -> None:
    sched = scheduler(n_ctx=100_000, n_batch=8, n_seq_max=16, max_running=8)
    busy = [sequence(key="busy", prompt=30) for _ in range(60)]
    add(sched, sequence(key="little"), *busy)
    run_with_answers_of(sched, busy, n_completion=2, n_steps=120)
    assert busy
    add(sched, *[sequence(key="new", prompt=300) for _ in range(4)])
    tokens = {"busy": 0, "new": 0, "little": 0}
    for _ in range(12):
        for key, n_tokens in step(sched).items():
            tokens[key] += n_tokens
    assert tokens["busy"] > 0.3 * tokens["new"]


def test_whoever_has_fewer_slots_than_its_share_comes_before_those_who_may_not_have_another() -> None:
    sched = scheduler(n_ctx=10_000, n_seq_max=16, max_running=8)
    add(sched, *[sequence(key="hog") for _ in range(8)])
    step(sched)
    for key in "xwvu":
        add(sched, *[sequence(key=key) for _ in range(4)])
        step(sched)
    late = sequence(key="late")
    add(sched, late)
    sched._order.charge(late, 10_000)  # its key has had more than they
    step(sched)
    assert is_running(late)


def test_an_interactive_prompt_does_not_wait_for_its_prefix_in_the_batch_class() -> None:
    sched = scheduler(n_ctx=10_000, n_batch=8, max_running=4)
    document = list(range(200))
    add(sched, sequence(key="a", prompt=document, is_batch=True))
    step(sched)
    add(sched, sequence(key="b", prompt=900), sequence(key="c", prompt=900))
    interactive = sequence(key="a", prompt=[*document, 7])
    add(sched, interactive)
    step(sched)
    assert is_running(interactive)


def test_many_requests_that_wait_for_a_prefix_do_not_hide_another_keys() -> None:
    sched = scheduler(n_ctx=10_000, n_batch=8, n_seq_max=16, max_running=8)
    document = list(range(400))
    add(sched, *[sequence(key="a", prompt=[*document, 1000 + number]) for number in range(40)])
    step(sched)
    other = sequence(key="b")
    add(sched, other)
    sched._order.charge(other, 10_000)  # its key has had more than they
    step(sched)
    assert is_running(other)


def test_nobody_makes_way_in_vain() -> None:
    sched = scheduler(n_ctx=400, max_running=8)
    hog = [sequence(key="hog", prompt=n) for n in (120, 20, 20)]
    others = [sequence(key="c", prompt=130), sequence(key="d", prompt=5)]
    add(sched, *hog, *others)
    for _ in range(8):
        step(sched)
    assert all(map(is_running, (*hog, *others)))
    add(sched, sequence(key="late", prompt=90))
    step(sched)
    assert sched.n_preempted == 0
    assert all(map(is_running, hog))


def test_what_made_way_keeps_its_cells_where_little_else_is_kept() -> None:
    sched = scheduler(n_ctx=2000, max_running=2)
    for _ in range(100):  # prompts that find nothing: hardly anything is retained any longer
        one = sequence(prompt=20)
        add(sched, one)
        step(sched)
        sched.finish(one)
    hog = [sequence(key="hog", prompt=300) for _ in range(2)]
    add(sched, *hog)
    while any(one.n_completion < 3 for one in hog):
        step(sched)
    for _ in range(3):
        single = sequence(key="single", prompt=20)
        add(sched, single)
        step(sched)
        assert not is_running(hog[1])
        sched.finish(single)
        assert step(sched)["hog"] == 2, "nothing was computed again"


def test_the_cells_of_one_that_was_left_while_it_waited_are_dropped_like_others() -> None:
    sched = scheduler(n_ctx=2000, max_running=2)
    hog = [sequence(key="hog", prompt=300) for _ in range(2)]
    add(sched, *hog)
    while any(one.n_completion < 3 for one in hog):
        step(sched)
    add(sched, single := sequence(key="single", prompt=20))
    step(sched)
    sched.finish(hog[1])
    for _ in range(100):
        sched.finish(single)
        add(sched, single := sequence(key="single", prompt=20))
        step(sched)
    assert sched.n_cells_used < 300 + 20 * 10


def test_when_cells_run_out_the_key_that_uses_most_for_its_share_makes_way() -> None:
    sched = scheduler(n_ctx=300, max_running=8)
    hog = [sequence(key="hog", prompt=30) for _ in range(4)]
    add(sched, *hog)
    for _ in range(5):
        step(sched)
    modest = [sequence(key="modest", prompt=10) for _ in range(2)]
    add(sched, *modest)
    step(sched)
    assert all(map(is_running, (*hog, *modest)))
    while sched.n_preempted == 0:
        step(sched)
    assert all(map(is_running, modest))
    assert sum(map(is_running, hog)) == 3
