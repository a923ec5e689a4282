"""How many threads to compute on while other processes want the same cores.

ggml's threads meet at a barrier after each operation, hundreds of times a step, and wait there spinning. If one of them
has lost its core to another process, all others burn theirs until it comes back: with two threads on two cores and one
busy neighbour a step takes four times as long, where one thread alone would keep its core and lose nothing.
"""

from __future__ import annotations

# Seconds of computing that are looked at before judging, and in a trial with one thread more.
WINDOW_S = 0.25
TRIAL_S = 0.05
# Threads' worth of time that may be missing: what starting and joining a step's threads takes, and short interruptions.
MAX_LOST = 0.5
# When one thread more is tried again, and after each trial in vain twice as late.
FIRST_TRIAL_S = 1.0
LAST_TRIAL_S = 8.0


class ThreadGovernor:
    """Takes threads away when they lose their cores, and tries them again one by one.

    What is measured is processor time against wall time while a step is computed: all threads compute or spin, so what
    is missing is what others had of their cores.
    """

    def __init__(self, n_max: int) -> None:
        self.n_threads = n_max
        self.lost = 0.0  # threads' worth of time that was missing when it was last judged
        self._n_max = n_max
        self._is_trial = False
        self._trial_at_s = 0.0
        self._trial_delay_s = FIRST_TRIAL_S
        self._wall_s = 0.0
        self._cpu_s = 0.0

    def observe(self, *, now_s: float, wall_s: float, cpu_s: float) -> None:
        """A step on ``n_threads`` that ended at ``now_s`` took ``wall_s``, and ``cpu_s`` of processor time."""
        self._wall_s += wall_s
        self._cpu_s += cpu_s
        if self._wall_s >= (TRIAL_S if self._is_trial else WINDOW_S):
            self.lost = self.n_threads - self._cpu_s / self._wall_s
            self._judge(now_s)
            self._wall_s = self._cpu_s = 0.0

    def _judge(self, now_s: float) -> None:
        if self.lost > MAX_LOST and self.n_threads > 1:
            self.n_threads = max(1, self.n_threads - max(1, round(self.lost)))
            self._trial_delay_s = min(2 * self._trial_delay_s, LAST_TRIAL_S) if self._is_trial else FIRST_TRIAL_S
            self._trial_at_s = now_s + self._trial_delay_s
            self._is_trial = False
        elif self.n_threads < self._n_max and (self._is_trial or now_s >= self._trial_at_s):
            self.n_threads += 1  # a trial that went well is followed by the next at once
            self._is_trial = True
        else:
            self._is_trial = False
