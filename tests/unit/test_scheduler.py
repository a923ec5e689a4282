from __future__ import annotations

from appliance.engine.scheduler import Scheduler
from appliance.engine.sequence import Sequence
from appliance.engine.slots import Copy, Release
from appliance.engine.step import StepPlan
from tests.factories import scheduler, sequence


def step(sched: Scheduler, token: int = 7) -> StepPlan:
    plan = sched.schedule()
    sched.apply(plan, [token for chunk in plan.chunks if chunk.wants_logits])
    sched.check_integrity()
    return plan


def tokens_for(plan: StepPlan, seq: Sequence) -> int:
    return sum(chunk.n_tokens for chunk in plan.chunks if chunk.sequence is seq)


def test_a_prompt_is_computed_and_sampled_in_one_step_when_it_fits() -> None:
    sched, seq = scheduler(), sequence(prompt=5)
    sched.add(seq)
    plan = step(sched)
    assert (tokens_for(plan, seq), seq.n_computed, seq.n_completion) == (5, 5, 1)


def test_decode_goes_before_new_prefill() -> None:
    sched = scheduler(n_batch=8)
    old, new = sequence(prompt=2), sequence(prompt=100)
    sched.add(old)
    step(sched)
    sched.add(new)
    plan = step(sched)
    assert (tokens_for(plan, old), tokens_for(plan, new)) == (1, 7)


def test_a_long_prompt_is_cut_into_chunks_of_the_budget() -> None:
    sched, seq = scheduler(n_batch=8), sequence(prompt=20)
    sched.add(seq)
    assert [tokens_for(step(sched), seq) for _ in range(4)] == [8, 8, 4, 1]


def test_only_the_chunk_that_completes_the_prompt_wants_logits() -> None:
    sched, seq = scheduler(n_batch=8), sequence(prompt=10)
    sched.add(seq)
    assert [step(sched).chunks[0].wants_logits for _ in range(2)] == [False, True]


def test_no_more_sequences_run_than_allowed() -> None:
    sched = scheduler(max_running=2)
    for _ in range(3):
        sched.add(sequence())
    step(sched)
    assert (sched.n_running, sched.n_waiting) == (2, 1)


def test_a_finished_sequence_makes_room_for_a_waiting_one() -> None:
    sched = scheduler(max_running=1)
    first, second = sequence(), sequence()
    sched.add(first)
    sched.add(second)
    step(sched)
    sched.finish(first)
    assert tokens_for(step(sched), second) == 4


def test_a_prompt_starts_from_the_longest_retained_prefix() -> None:
    sched = scheduler()
    first = sequence(prompt=[1, 2, 3, 4])
    sched.add(first)
    step(sched)
    sched.finish(first)
    second = sequence(prompt=[1, 2, 3, 9, 9])
    sched.add(second)
    plan = step(sched)
    assert plan.memory == (Copy(0, 1, 3),)
    assert (second.n_cached, tokens_for(plan, second)) == (3, 2)


def test_a_prompt_that_continues_a_retained_sequence_goes_on_in_its_slot() -> None:
    sched = scheduler()
    first = sequence(prompt=[1, 2, 3])
    sched.add(first)
    step(sched)
    sched.finish(first)
    second = sequence(prompt=[1, 2, 3, 4])
    sched.add(second)
    plan = step(sched)
    assert plan.memory == ()
    assert (second.slot, second.n_cached) == (0, 3)


def test_the_last_prompt_token_is_always_computed() -> None:
    sched = scheduler()
    for _ in range(2):
        seq = sequence(prompt=[1, 2, 3])
        sched.add(seq)
        plan = step(sched)
        sched.finish(seq)
    assert (seq.n_cached, tokens_for(plan, seq)) == (2, 1)


def test_a_prefix_is_shared_with_a_running_sequence() -> None:
    sched = scheduler()
    first = sequence(prompt=[1, 2, 3, 4])
    sched.add(first)
    step(sched)
    second = sequence(prompt=[1, 2, 3, 5])
    sched.add(second)
    step(sched)
    assert second.n_cached == 3
    assert sched.n_cells_used == 5 + 1  # [1 2 3 4 7] and the 5 of the second


def test_prefixes_are_not_shared_between_scopes() -> None:
    sched = scheduler()
    first = sequence(prompt=[1, 2, 3, 4], scope="a")
    sched.add(first)
    step(sched)
    sched.finish(first)
    second = sequence(prompt=[1, 2, 3, 4, 5], scope="b")
    sched.add(second)
    step(sched)
    assert second.n_cached == 0


def test_nothing_is_retained_or_shared_with_prefix_reuse_off() -> None:
    sched = scheduler(prefix_reuse=False)
    first = sequence(prompt=[1, 2, 3])
    sched.add(first)
    step(sched)
    sched.finish(first)
    second = sequence(prompt=[1, 2, 3, 4])
    sched.add(second)
    assert step(sched).memory == (Release(0),)
    assert second.n_cached == 0


def test_sequences_of_one_request_compute_their_prompt_once() -> None:
    sched = scheduler()
    prompt = [1, 2, 3, 4, 5]
    group = [sequence(prompt=prompt, request_id="r", index=index) for index in range(3)]
    for seq in group:
        sched.add(seq)
    assert step(sched).n_tokens == 5
    plan = step(sched)
    assert [tokens_for(plan, seq) for seq in group] == [1, 1, 1]
    assert [seq.n_cached for seq in group] == [0, 4, 4]


def test_a_prompt_waits_while_another_computes_a_long_common_prefix() -> None:
    sched = scheduler(n_batch=16, max_running=4)
    prefix = list(range(48))
    first, second = sequence(prompt=[*prefix, 100]), sequence(prompt=[*prefix, 200])
    sched.add(first)
    sched.add(second)
    steps = [step(sched) for _ in range(4)]
    assert [tokens_for(plan, second) for plan in steps] == [0, 0, 0, 1]
    assert second.n_cached == 48


def test_a_sequence_that_waits_for_a_prefix_lets_others_pass() -> None:
    sched = scheduler(n_batch=64)
    prefix = list(range(40))
    for prompt in ([*prefix, 100], [*prefix, 200], [500, 501]):
        sched.add(sequence(prompt=prompt))
    step(sched)
    assert (sched.n_running, sched.n_waiting) == (2, 1)


def test_retained_slots_are_evicted_least_recently_used_first() -> None:
    sched = scheduler(n_seq_max=2, max_running=1)
    for prompt in ([1, 1, 1], [2, 2, 2], [1, 1, 1, 1], [3, 3, 3]):
        seq = sequence(prompt=prompt)
        sched.add(seq)
        step(sched)
        sched.finish(seq)
    again = sequence(prompt=[1, 1, 1, 1, 1])
    sched.add(again)
    step(sched)
    assert again.n_cached == 4


def test_retained_cells_are_evicted_for_a_prompt_that_needs_them() -> None:
    sched = scheduler(n_ctx=50)
    old = sequence(prompt=30)
    sched.add(old)
    step(sched)
    sched.finish(old)
    new = sequence(prompt=40)
    sched.add(new)
    plan = step(sched)
    assert plan.memory == (Release(0),)
    assert tokens_for(plan, new) == 40


def test_a_prompt_without_room_waits_and_leaves_retained_prefixes_alone() -> None:
    sched = scheduler(n_ctx=100, n_batch=100)
    kept, running, large = sequence(prompt=[1] * 10), sequence(prompt=50), sequence(prompt=60)
    for seq in (kept, running, large):
        sched.add(seq)
        step(sched)
        if seq is kept:
            sched.finish(kept)
    assert large.slot is None
    assert sched.n_cells_used > 50 + 10 - 1


def test_the_youngest_is_preempted_when_cells_run_out_and_goes_on_later() -> None:
    sched = scheduler(n_ctx=80, n_batch=80)
    first, second = sequence(prompt=20), sequence(prompt=20)
    sched.add(first)
    sched.add(second)
    while second.slot is not None or second.n_completion == 0:
        step(sched)
    assert first.slot is not None
    n_before = second.n_completion
    assert second.n_computed == 0
    sched.finish(first)
    plan = step(sched)
    assert tokens_for(plan, second) == 20 + n_before
    assert second.n_completion == n_before + 1


def test_one_sequence_may_fill_the_whole_context() -> None:
    sched, seq = scheduler(n_ctx=32, n_batch=8, max_running=1), sequence(prompt=30)
    sched.add(seq)
    while len(seq.tokens) < 32:
        step(sched)
    step(sched)
    assert seq.n_computed == 32


def test_a_prompt_larger_than_the_context_is_refused() -> None:
    import pytest

    with pytest.raises(ValueError, match="33 tokens can never fit into 32"):
        scheduler(n_ctx=32).add(sequence(prompt=33))


def test_a_step_with_a_seeded_sequence_keeps_to_the_exact_batch() -> None:
    sched = scheduler(n_batch=64, exact_batch=10)
    seeded, other = sequence(prompt=4, exact=True), sequence(prompt=50)
    sched.add(seeded)
    sched.add(other)
    plan = step(sched)
    assert plan.exact
    assert plan.n_tokens == 10
    sched.finish(seeded)
    plan = step(sched)
    assert not plan.exact
    assert plan.n_tokens == 44


def test_a_seeded_sequence_takes_only_prefixes_from_exact_steps() -> None:
    sched = scheduler(exact_batch=10)
    plain = sequence(prompt=[1, 2, 3, 4])
    sched.add(plain)
    step(sched)
    sched.finish(plain)
    cached = []
    for _ in range(2):
        seeded = sequence(prompt=[1, 2, 3, 4], exact=True)
        sched.add(seeded)
        step(sched)
        sched.finish(seeded)
        cached.append(seeded.n_cached)
    assert cached == [0, 3]


def test_a_seeded_sequence_takes_none_where_reuse_is_not_exact() -> None:
    sched = scheduler(exact_batch=10, exact_reuse=False)
    for _ in range(2):
        seeded = sequence(prompt=[1, 2, 3, 4], exact=True)
        sched.add(seeded)
        step(sched)
        sched.finish(seeded)
        assert seeded.n_cached == 0


def test_a_waiting_sequence_can_be_taken_out() -> None:
    sched = scheduler(max_running=1)
    running, waiting = sequence(), sequence()
    sched.add(running)
    sched.add(waiting)
    step(sched)
    sched.finish(waiting)
    sched.finish(running)
    assert sched.is_idle
    sched.check_integrity()


def test_a_prefix_that_stands_in_the_way_of_its_own_reuse_is_given_up() -> None:
    sched = scheduler(n_ctx=60)
    old = sequence(prompt=[*range(50)])
    sched.add(old)
    step(sched)
    sched.finish(old)
    new = sequence(prompt=[*range(10), *range(100, 140)])
    sched.add(new)
    assert tokens_for(step(sched), new) == 50
    assert new.n_cached == 0


def test_room_is_freed_before_a_seeded_sequence_starts() -> None:
    sched = scheduler(n_ctx=100, n_seq_max=8, exact_batch=64)
    for _ in range(4):
        old = sequence(prompt=24)
        sched.add(old)
        step(sched)
        sched.finish(old)
    seeded = sequence(prompt=4, exact=True)
    sched.add(seeded)
    assert [type(operation) for operation in step(sched).memory] == [Release]
    assert sched.n_cells_used <= 75 + 4


def test_a_sequence_that_yielded_its_room_stays_out_until_a_step_was_computed() -> None:
    sched = scheduler()
    first, second = sequence(), sequence()
    sched.add(first)
    sched.add(second)
    sched.schedule()
    assert sched.yield_room()
    plan = step(sched)
    assert (tokens_for(plan, first), tokens_for(plan, second)) == (4, 0)
    assert tokens_for(step(sched), second) == 4


def test_what_may_be_wrong_is_not_kept() -> None:
    sched = scheduler()
    seq = sequence()
    sched.add(seq)
    step(sched)
    sched.discard(seq)
    assert sched.n_cells_used == 0
    sched.check_integrity()
