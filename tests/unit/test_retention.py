"""What is kept for later prompts: all of it while that pays, little while it doesn't."""

from __future__ import annotations

import itertools

from appliance.engine.retention import LEAST_RATIO
from appliance.engine.scheduler import Scheduler
from appliance.engine.sequence import Sequence
from appliance.engine.slots import Slots
from tests.factories import scheduler, sequence

N_CTX = 4000


def serve(sched: Scheduler, seq: Sequence) -> Sequence:
    """Runs a sequence alone to its end, with an answer of two tokens."""
    sched.add(seq)
    while seq.n_completion < 2:
        plan = sched.schedule()
        sched.apply(plan, [7 for chunk in plan.chunks if chunk.wants_logits])
        sched.check_integrity()
    sched.finish(seq)
    return seq


def strangers(sched: Scheduler, n_prompts: int) -> None:
    """Prompts that have nothing in common with any other."""
    for _ in range(n_prompts):
        serve(sched, sequence(prompt=50))


def test_after_many_prompts_with_nothing_in_common_little_is_kept() -> None:
    sched = scheduler(n_ctx=N_CTX, n_seq_max=64, max_running=1)
    strangers(sched, 200)
    assert 1 <= sched.n_retained * 50 <= N_CTX * LEAST_RATIO + 100


def test_while_conversations_come_back_all_is_kept() -> None:
    sched = scheduler(n_ctx=N_CTX, n_seq_max=64, max_running=1)
    talks = [sequence(prompt=40) for _ in range(20)]
    for talk in itertools.chain(talks, talks, talks):
        talk.tokens = serve(sched, sequence(prompt=[*talk.tokens, 1])).tokens
    strangers(sched, 1)
    assert sched.n_retained == 21


def test_a_prompt_whose_beginning_was_dropped_makes_all_be_kept_again() -> None:
    sched = scheduler(n_ctx=N_CTX, n_seq_max=64, max_running=1)
    first = serve(sched, sequence(prompt=50))
    strangers(sched, 30)
    again = serve(sched, sequence(prompt=[*first.tokens, 1]))
    assert again.n_cached == 0, "it was dropped"
    strangers(sched, 10)
    assert sched.n_retained > 20


def test_another_scopes_prompts_do_not_count() -> None:
    sched = scheduler(n_ctx=N_CTX, n_seq_max=64, max_running=1)
    first = serve(sched, sequence(prompt=50, scope="a"))
    strangers(sched, 200)
    n_before = sched.n_retained
    serve(sched, sequence(prompt=[*first.tokens, 1], scope="b"))
    strangers(sched, 10)
    assert sched.n_retained <= n_before + 1


def test_little_is_kept_beside_a_seeded_sequence_too() -> None:
    sched = scheduler(n_ctx=N_CTX, n_seq_max=64, max_running=2, exact_batch=32)
    strangers(sched, 10)
    seeded = sequence(prompt=20, exact=True)
    sched.add(seeded)
    for _ in range(200):
        other = sequence(prompt=50)
        sched.add(other)
        while other.n_completion < 1:
            plan = sched.schedule()
            sched.apply(plan, [7 for chunk in plan.chunks if chunk.wants_logits])
        sched.finish(other)
    assert 1 <= sched.n_retained * 50 <= N_CTX * LEAST_RATIO + 100


def test_what_is_awaited_stays_when_all_else_is_dropped() -> None:
    slots = Slots(n_ctx=6400, n_seq_max=8)
    for number, is_awaited in enumerate((True, False, False)):
        slot = slots.take("", None, 0)
        assert slot is not None
        slots.tree.append(slot, [1000 * number + i for i in range(200)], exact=False)
        slots.retain(slot, is_awaited=is_awaited)
    for number in range(200):
        slots.note_prompt("", [90_000 + number], None, 0, 16)
    slots.drop_unlikely([])
    assert slots.tree.n_cells == 400, "the awaited one, and the latest"
    assert slots.tree.match("", list(range(200)), exact=False)[0] == 200
