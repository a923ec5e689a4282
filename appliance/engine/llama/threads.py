"""The threads that contexts compute on.

Left to itself, ggml starts its worker threads anew for each step. Ours live as long as the contexts, and how long they
poll for the next graph before they sleep is set here.
"""

from __future__ import annotations

import ctypes
import logging
import time
from types import TracebackType
from typing import Self

from appliance import logs
from appliance.engine.llama.contention import ThreadGovernor
from appliance.engine.llama.library import cpu_function, lib
from appliance.errors import EngineFailed

log = logging.getLogger(__name__)

GGML_MAX_N_THREADS = 512  # ggml.h


class _ThreadpoolParams(ctypes.Structure):
    """``struct ggml_threadpool_params`` of ggml.h."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * GGML_MAX_N_THREADS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


class ComputeThreads:
    """Sets the number of threads for each step, and owns the pools that they live in; use with ``with``.

    Contexts may share one, as long as they compute one after another. It is closed after all of them.
    """

    def __init__(self, n_threads: int, n_threads_batch: int, poll: int, *, may_adapt: bool) -> None:
        """``poll``: 0 to sleep at once when there is nothing to compute, up to 100 to poll for long.

        ``may_adapt``: use fewer threads while other processes want the cores. Raises EngineFailed if the threads can't
        be started.
        """
        self._n_threads = n_threads
        self._n_threads_batch = n_threads_batch
        self._poll = poll
        self._n_most = max(n_threads, n_threads_batch)
        self._governor = ThreadGovernor(self._n_most) if may_adapt else None
        # By their size. A pool stays when another takes its place: the backend still has its address.
        self._pools: dict[int, ctypes.c_void_p] = {self._n_most: _new_pool(self._n_most, poll)}
        # Of each context, by its address: the size of its pool, and how many threads it computes on.
        self._n_attached: dict[int, int] = {}
        self._n_set: dict[int, int] = {}
        self._n_used = 0
        self._wall_s = self._cpu_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in self._pools.values():
            cpu_function("ggml_threadpool_free", None, [ctypes.c_void_p])(pool)

    def attach(self, context: int) -> None:
        """Has a context compute on these threads; it must be freed before they end."""
        self._attach(context, self._n_most)
        self._set(context, self._n_most)

    def begin_step(self, context: int, *, has_prompts: bool) -> None:
        """Chooses the threads for the step that is computed next."""
        # llama.cpp calls any step of more than one token a batch, also one in which sequences only decode.
        n_threads = self._n_threads_batch if has_prompts else self._n_threads
        if self._governor is not None:
            allowed = self._governor.n_threads
            if allowed != self._n_attached[context]:
                log.debug(logs.event("compute_threads", n_threads=allowed, lost=round(self._governor.lost, 2)))
                self._attach(context, allowed)
            n_threads = min(n_threads, allowed)
        self._n_used = n_threads
        if n_threads != self._n_set[context]:
            self._set(context, n_threads)
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()

    def end_step(self) -> None:
        """The step has been computed."""
        if self._governor is not None and self._n_used == self._governor.n_threads:
            now_s = time.perf_counter()
            cpu_s = time.process_time() - self._cpu_s
            self._governor.observe(now_s=now_s, wall_s=now_s - self._wall_s, cpu_s=cpu_s)

    def _set(self, context: int, n_threads: int) -> None:
        lib.llama_set_n_threads(context, n_threads, n_threads)
        self._n_set[context] = n_threads

    def _attach(self, context: int, n_threads: int) -> None:
        if n_threads not in self._pools:
            self._pools[n_threads] = _new_pool(n_threads, self._poll)
        attach = lib._lib.llama_attach_threadpool
        attach.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        attach.restype = None
        attach(context, self._pools[n_threads], self._pools[n_threads])
        self._n_attached[context] = n_threads


def _new_pool(n_threads: int, poll: int) -> ctypes.c_void_p:
    new = cpu_function("ggml_threadpool_new", ctypes.c_void_p, [ctypes.POINTER(_ThreadpoolParams)])
    params = _ThreadpoolParams(n_threads=n_threads, poll=poll)
    pool = ctypes.c_void_p(new(ctypes.byref(params)))
    if not pool:
        raise EngineFailed(f"llama.cpp can't start {n_threads} threads")
    return pool
