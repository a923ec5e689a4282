"""Where prompts stop, and what is kept there, for models whose memory can't be cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.checkpoints import MIN_TOKENS, positions
from appliance.engine.scheduler import Scheduler
from appliance.engine.sequence import Sequence
from appliance.engine.slots import Copy, Release, Slots
from appliance.engine.step import StepPlan
from tests.factories import scheduler, sequence


def uncuttable(
    *, n_ctx: int = 4000, n_batch: int = 2048, n_seq_max: int = 8, max_running: int = 4, exact_reuse: bool = False
) -> Scheduler:
    return scheduler(
        n_ctx=n_ctx,
        n_batch=n_batch,
        n_seq_max=n_seq_max,
        max_running=max_running,
        exact_batch=63,
        exact_reuse=exact_reuse,
        can_cut_prefix=False,
    )


def step(sched: Scheduler, token: int = 7) -> StepPlan:
    plan = sched.schedule()
    sched.apply(plan, [token for chunk in plan.chunks if chunk.wants_logits])
    sched.check_integrity()
    return plan


def serve(sched: Scheduler, *prompt: int, n_answer: int = 2) -> Sequence:
    """Runs a prompt alone to the end of its answer."""
    seq = sequence(prompt=list(prompt))
    sched.add(seq)
    while seq.n_completion < n_answer:
        step(sched)
    sched.finish(seq)
    sched.check_integrity()
    return seq


@pytest.mark.parametrize(
    ("n_prompt", "n_reused", "n_known", "expected"),
    [
        (20, 0, 0, []),  # not worth a step
        (100, 0, 0, [99]),
        (1000, 0, 0, [256, 512, 999]),
        (1000, 256, 256, [512, 999]),
        (1000, 0, 600, [256, 512, 600, 999]),
        (1000, 0, 530, [256, 530, 999]),  # 512 is as good as there
        (1000, 950, 950, []),
        (300, 0, 0, [299]),
        (4096, 0, 4000, [256, 512, 1024, 2048, 4000, 4095]),
    ],
)
def test_positions(n_prompt: int, n_reused: int, n_known: int, expected: list[int]) -> None:
    assert positions(n_prompt, n_reused=n_reused, n_known=n_known) == expected


@given(st.integers(1, 200_000), st.data())
def test_positions_are_few_and_far_between(n_prompt: int, data: st.DataObject) -> None:
    n_known = data.draw(st.integers(0, n_prompt - 1))
    n_reused = data.draw(st.integers(0, n_known))
    found = positions(n_prompt, n_reused=n_reused, n_known=n_known)
    stops = [n_reused, *found]
    assert all(after - before >= MIN_TOKENS for before, after in zip(stops, found, strict=False))
    assert all(stop < n_prompt for stop in found)
    assert len(found) <= 12


def test_a_prompt_goes_on_only_from_where_a_slot_ends() -> None:
    sched = uncuttable()
    first = serve(sched, *range(40))
    other_end = serve(sched, *range(30), 99)
    longer = serve(sched, *first.tokens, 98)
    assert (other_end.n_cached, longer.n_cached) == (0, 41)


def test_what_a_slot_ends_with_is_found_beside_a_longer_run_that_ends_elsewhere() -> None:
    sched = uncuttable()
    serve(sched, 1, 2, 3)
    serve(sched, 1, 2, 3, 7, 8, 9, 9, 9)
    # Both begin it; only the first ends in it: with [1 2 3 7].
    assert serve(sched, 1, 2, 3, 7, 8, 5).n_cached == 4


def test_a_step_ends_at_a_checkpoint_and_a_copy_is_kept_there() -> None:
    sched = uncuttable()
    seq = sequence(prompt=list(range(600)))
    sched.add(seq)
    plans = [step(sched) for _ in range(4)]
    assert [plan.n_tokens for plan in plans] == [256, 256, 87, 1]
    assert [plan.memory for plan in plans] == [(), (Copy(0, 1, 256),), (Copy(0, 2, 512),), (Copy(0, 3, 599),)]
    assert sched.n_cells_used == 600


def test_two_prompts_show_where_a_third_one_will_go_on() -> None:
    sched = uncuttable()
    common = list(range(400))
    assert [serve(sched, *common, *[n] * 100).n_cached for n in (1001, 1002, 1003)] == [0, 256, 400]


def test_a_prompt_stops_where_one_that_waits_begins_to_differ() -> None:
    sched = uncuttable(n_batch=64)
    common = list(range(100))
    first, second = sequence(prompt=[*common, *[901] * 60]), sequence(prompt=[*common, *[902] * 60])
    sched.add(first)
    sched.add(second)
    plans = [step(sched) for _ in range(3)]
    assert [[chunk.n_tokens for chunk in plan.chunks] for plan in plans] == [[64], [36], [59, 5]]
    assert second.n_cached == 100


def test_a_short_prompt_with_several_answers_is_computed_once() -> None:
    sched = uncuttable()
    group = [sequence(prompt=[1, 2, 3, 4, 5], request_id="r", index=index) for index in range(3)]
    for seq in group:
        sched.add(seq)
    assert [step(sched).n_tokens for _ in range(2)] == [4, 3]
    assert [seq.n_cached for seq in group] == [0, 4, 4]


def test_what_a_prompt_goes_on_from_stays_while_another_slot_is_to_be_had() -> None:
    sched = uncuttable(n_seq_max=2, max_running=1)
    so_far = serve(sched, *range(40)).tokens
    assert serve(sched, *so_far, 1).n_cached == 41
    assert serve(sched, *so_far, 2).n_cached == 41


def test_the_only_slot_is_taken_itself() -> None:
    sched = uncuttable(n_seq_max=1, max_running=1)
    so_far = serve(sched, *range(40)).tokens
    assert serve(sched, *so_far, 1).n_cached == 41
    assert serve(sched, *so_far, 2).n_cached == 0


def test_a_sequence_that_made_way_goes_on_in_its_slot() -> None:
    sched = uncuttable()
    seq = sequence(prompt=20)
    sched.add(seq)
    step(sched)
    slot = seq.slot
    sched._preempt(seq)
    assert step(sched).memory == ()
    assert (seq.slot, seq.n_computed) == (slot, 21)


def test_a_checkpoint_takes_no_slot_that_is_used_or_awaited() -> None:
    slots = Slots(n_ctx=100, n_seq_max=2, can_cut=False)
    awaited, used = slots.take("", None, 0), slots.take("", None, 0)
    assert awaited is not None
    assert used is not None
    slots.tree.append(awaited, [1], exact=False)
    slots.tree.append(used, [2, 2], exact=False)
    slots.retain(awaited, is_awaited=True)
    slots.keep_checkpoint(used)
    assert slots.take_operations() == ()
    slots.no_longer_awaited(awaited)
    slots.keep_checkpoint(used)
    assert slots.take_operations() == (Release(awaited), Copy(used, awaited, 2))
    slots.check_integrity({used})


def test_checkpoints_that_nothing_went_on_from_go_first() -> None:
    sched = uncuttable(n_seq_max=4, max_running=1)
    talk = serve(sched, *range(1000, 1040)).tokens
    serve(sched, *range(2000, 2600))  # 256, 512, 599 and its end
    assert serve(sched, *talk, 1).n_cached == 41


def test_checkpoints_of_what_may_be_wrong_are_not_kept() -> None:
    sched = uncuttable()
    serve(sched, *range(300))
    n_before = sched.n_retained
    seq = sequence(prompt=[*range(300), *range(1000, 1300)])
    sched.add(seq)
    step(sched)
    step(sched)
    assert (seq.n_cached, seq.n_computed) == (299, 599)
    assert sched.n_retained > n_before
    sched.discard(seq)
    assert sched.n_retained == n_before
    sched.check_integrity()


def test_the_steps_of_a_seeded_prompt_are_always_the_same() -> None:
    sched = uncuttable()
    serve(sched, *range(300))
    seeded = sequence(prompt=list(range(300)), exact=True)
    sched.add(seeded)
    assert [step(sched).n_tokens for _ in range(5)] == [63, 63, 63, 63, 48]
    assert seeded.n_cached == 0


def test_a_prompt_does_not_wait_for_a_seeded_one_that_will_not_stop() -> None:
    sched = uncuttable()
    sched.add(sequence(prompt=list(range(100)), exact=True))
    other = sequence(prompt=[*range(90), 5])
    sched.add(other)
    step(sched)
    assert other.slot is not None


def test_no_checkpoints_with_prefix_reuse_off() -> None:
    sched = scheduler(n_ctx=2000, n_batch=1000, prefix_reuse=False, can_cut_prefix=False)
    sched.add(sequence(prompt=600))
    assert step(sched).n_tokens == 600
