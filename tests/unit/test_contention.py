from __future__ import annotations

from appliance.engine.llama.contention import ThreadGovernor

STEP_S = 0.02


def compute(governor: ThreadGovernor, *, seconds: float, free_cores: float) -> None:
    """Steps on a machine that has so many cores for us."""
    for _ in range(int(seconds / STEP_S)):
        governor.observe(wall_s=STEP_S, cpu_s=STEP_S * min(governor.n_threads, free_cores))


def test_all_threads_are_used_while_they_keep_their_cores() -> None:
    governor = ThreadGovernor(4)
    compute(governor, seconds=30, free_cores=4)
    assert governor.n_threads == 4


def test_threads_that_lose_their_cores_are_given_up() -> None:
    governor = ThreadGovernor(4)
    compute(governor, seconds=1, free_cores=2.5)
    assert governor.n_threads == 2


def test_one_thread_is_always_left() -> None:
    governor = ThreadGovernor(4)
    compute(governor, seconds=2, free_cores=0.3)
    assert governor.n_threads == 1


def test_threads_come_back_when_the_cores_are_free_again() -> None:
    governor = ThreadGovernor(4)
    compute(governor, seconds=1, free_cores=1)
    compute(governor, seconds=30, free_cores=4)
    assert governor.n_threads == 4


def test_trials_in_vain_become_rare() -> None:
    governor = ThreadGovernor(2)
    trials = []
    for _ in range(6):
        before = len(trials)
        n_steps = 0
        while len(trials) == before:
            compute(governor, seconds=STEP_S, free_cores=1)
            n_steps += 1
            if governor.n_threads == 2 and n_steps > 20:
                trials.append(n_steps)
                while governor.n_threads == 2:
                    compute(governor, seconds=STEP_S, free_cores=1)
    assert trials == sorted(trials)
    assert trials[-1] > 4 * trials[0]


def test_a_short_interruption_changes_nothing() -> None:
    governor = ThreadGovernor(2)
    compute(governor, seconds=1, free_cores=2)
    governor.observe(wall_s=0.02, cpu_s=0.02)
    compute(governor, seconds=1, free_cores=2)
    assert governor.n_threads == 2
