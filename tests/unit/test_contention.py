from __future__ import annotations

from appliance.engine.llama.contention import ThreadGovernor

STEP_S = 0.02


class Machine:
    """Computes steps with as many cores as others leave."""

    def __init__(self, n_threads: int) -> None:
        self.governor = ThreadGovernor(n_threads)
        self.now_s = 0.0

    def compute(self, seconds: float, *, free_cores: float) -> list[int]:
        """The number of threads of each step."""
        used = []
        for _ in range(round(seconds / STEP_S)):
            self.now_s += STEP_S
            used.append(self.governor.n_threads)
            cpu_s = STEP_S * min(self.governor.n_threads, free_cores)
            self.governor.observe(now_s=self.now_s, wall_s=STEP_S, cpu_s=cpu_s)
        return used


def test_all_threads_are_used_while_they_keep_their_cores() -> None:
    assert set(Machine(4).compute(30, free_cores=4)) == {4}


def test_threads_that_lose_their_cores_are_given_up() -> None:
    machine = Machine(4)
    assert machine.compute(0.8, free_cores=2.4)[-1] == 2


def test_one_thread_is_always_left() -> None:
    assert set(Machine(4).compute(1, free_cores=0.3)[20:]) == {1}


def test_threads_come_back_soon_when_the_cores_are_free_again() -> None:
    machine = Machine(4)
    machine.compute(60, free_cores=1)
    assert machine.compute(10, free_cores=4)[-1] == 4


def test_threads_come_back_after_a_pause_without_requests() -> None:
    machine = Machine(2)
    machine.compute(60, free_cores=1)
    machine.now_s += 60
    assert machine.compute(0.5, free_cores=2)[-1] == 2


def test_trials_in_vain_cost_little() -> None:
    machine = Machine(2)
    machine.compute(30, free_cores=1)
    used = machine.compute(60, free_cores=1)
    assert 0 < used.count(2) / len(used) < 0.02


def test_a_short_interruption_changes_nothing() -> None:
    machine = Machine(2)
    machine.compute(1, free_cores=2)
    machine.compute(STEP_S, free_cores=1)
    assert set(machine.compute(1, free_cores=2)) == {2}
