"""How many threads to compute on while other processes want the same cores.

ggml's threads meet at a barrier after each operation, hundreds of times a step, and wait there spinning. If one of them
has lost its core to another process, all others burn theirs until it comes back: with two threads on two cores and one
busy neighbour a step takes four times as long, where one thread alone would keep its core and lose nothing.
"""

from __future__ import annotations

# How long is looked at before judging, and how long for a trial with one thread more.
WINDOW_S = 0.25
TRIAL_S = 0.05
# Threads' worth of time that may be missing: what starting and joining a step's threads takes, and short interruptions.
MAX_LOST = 0.25
# When one thread more is tried again, and after each trial in vain twice as late.
FIRST_TRIAL_S = 2.0
LAST_TRIAL_S = 60.0


class ThreadGovernor:
    """Takes a thread away when threads lose their cores, and tries it again now and then.

    What is measured is processor time against wall time while a step is computed: all threads compute or spin, so what
    is missing is what others had of their cores.
    """

    def __init__(self, n_max: int) -> None:
        self.n_threads = n_max
        self._n_max = n_max
        self._is_trial = False
        self._trial_delay_s = FIRST_TRIAL_S
        self._since_trial_s = 0.0
        self._wall_s = 0.0
        self._cpu_s = 0.0

    def observe(self, *, wall_s: float, cpu_s: float) -> None:
        """A step on ``n_threads`` took ``wall_s``, and its process ``cpu_s`` of processor time meanwhile."""
        self._wall_s += wall_s
        self._cpu_s += cpu_s
        self._since_trial_s += wall_s
        if self._wall_s >= (TRIAL_S if self._is_trial else WINDOW_S):
            lost = self.n_threads - self._cpu_s / self._wall_s
            self._judge(lost)
            self._wall_s = self._cpu_s = 0.0

    def _judge(self, lost: float) -> None:
        if lost > MAX_LOST and self.n_threads > 1:
            if self._is_trial:
                self._trial_delay_s = min(2 * self._trial_delay_s, LAST_TRIAL_S)
            self._is_trial = False
            self._since_trial_s = 0.0
            self.n_threads -= max(1, min(round(lost), self.n_threads - 1))
        elif self._is_trial:
            self._is_trial = False
            self._trial_delay_s = FIRST_TRIAL_S
            self._since_trial_s = 0.0 if self.n_threads < self._n_max else self._since_trial_s
        if self.n_threads < self._n_max and self._since_trial_s >= self._trial_delay_s:
            self._is_trial = True
            self.n_threads += 1
