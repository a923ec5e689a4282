"""Runs the programs that make models, and turns their end into a result or a clear error."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from appliance.errors import ConfigError
from appliance.models.report import Report

_KILL_WAIT_S = 5.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Looked up here: between fork and exec nothing may be imported or allocated by others' threads.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def run_llama_job(module: str, request: dict[str, Any], title: str, report: Report) -> Any:
    """Runs ``appliance.engine.llama.MODULE`` and gives its result, with its progress shown.

    Raises:
        ConfigError: with the job's own words, or with how its process ended.
    """
    command = _job_command(module, request)
    answer: dict[str, Any] = {}
    with tempfile.TemporaryFile() as errors, report.stage(title, 100) as advance:
        percent = 0
        with started(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                message = json.loads(line)
                if "done" in message:
                    now = 100 * message["done"] // message["total"]
                    advance(now - percent)
                    percent = now
                else:
                    answer = message
        if "error" in answer:
            raise ConfigError(answer["error"])
        if process.returncode != 0 or "result" not in answer:
            raise ConfigError(f"{title} failed: {ended(process.returncode)}: {last_lines(errors)}")
    return answer["result"]


class JobFailed(ConfigError):
    """A job came to no result. ``signal_name`` is that of the signal that ended it, such as SIGILL."""

    def __init__(self, message: str, signal_name: str | None = None) -> None:
        super().__init__(message)
        self.signal_name = signal_name


def run_quick_job(module: str, request: dict[str, Any], *, timeout_s: float) -> Any:
    """As :func:`run_llama_job`, but what takes longer than ``timeout_s`` is ended, and its progress is not shown.

    Returns also if the process can't be ended since a driver keeps it. From any thread.

    Raises:
        JobFailed: with the job's own words, or with how its process ended.
    """
    process = _start(_job_command(module, request), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        output, errors = process.communicate(timeout=timeout_s)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_KILL_WAIT_S)
        if isinstance(error, subprocess.TimeoutExpired):
            raise JobFailed(f"it took longer than {timeout_s:g} s and was ended") from None
        raise
    answer = _last_message(output)
    if "error" in answer:
        raise JobFailed(answer["error"])
    if process.returncode != 0 or "result" not in answer:
        name = signal.Signals(-process.returncode).name if process.returncode < 0 else None
        raise JobFailed(f"{ended(process.returncode)}: {last_lines(io.BytesIO(errors), n_lines=1)}", name)
    return answer["result"]


def _last_message(output: bytes) -> dict[str, Any]:
    try:
        message = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        return {}
    return message if isinstance(message, dict) else {}


def _job_command(module: str, request: dict[str, Any]) -> list[str]:
    # Nothing is imported from the folder that it is called in (-P).
    return [sys.executable, "-P", "-m", f"appliance.engine.llama.{module}", json.dumps(request)]


@contextmanager
def started(command: list[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A process in a group of its own, which has ended when the block is left, also by Ctrl-C or ``kill -9``.

    To be called on the main thread.
    """
    process = _start(command, **options)
    try:
        yield process
        process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def ended(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"it ended with status {status}"
    name = signal.Signals(-status).name
    return f"{name} ended it" + (", which is often the kernel's answer to too little memory" if status == -9 else "")


def last_lines(log: Any, n_lines: int = 5) -> str:
    """The end of what a process wrote into ``log``."""
    log.seek(0)
    lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return "\n".join(lines[-n_lines:]) or "it said nothing"


def _start(command: list[str], **options: Any) -> subprocess.Popen[Any]:
    """Starts a process in a session of its own, which the kernel ends when the thread that started it has ended."""
    # A Ctrl-C waits until it is started: Python's own hooks run around a fork, and an exception in one is ignored.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def begin() -> None:
        """In the new process."""
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=begin, **options
        )
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # raises what has waited
    except BaseException:
        with process:
            os.killpg(process.pid, signal.SIGKILL)
        raise
    return process
