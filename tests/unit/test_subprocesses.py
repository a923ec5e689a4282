from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from appliance.models import subprocesses
from appliance.models.subprocesses import JobFailed, run_quick_job


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets what the next jobs do, as Python."""

    def be(code: str) -> None:
        monkeypatch.setattr(subprocesses, "_job_command", lambda module, request: [sys.executable, "-c", code])

    return be


def test_the_result_of_a_job_is_its_last_line(job: Callable[[str], None]) -> None:
    job("""print('{"done": 1, "total": 2}\\n{"result": {"n": 7}}')""")
    assert run_quick_job("x", {}, timeout_s=60) == {"n": 7}


def test_a_job_that_says_what_is_wrong_is_quoted(job: Callable[[str], None]) -> None:
    job("""import sys; print('{"error": "no such file"}'); sys.exit(1)""")
    with pytest.raises(JobFailed, match="^no such file$"):
        run_quick_job("x", {}, timeout_s=60)


def test_a_job_that_a_signal_ends_says_which(job: Callable[[str], None]) -> None:
    job("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    with pytest.raises(JobFailed, match="SIGILL ended it: it said nothing") as caught:
        run_quick_job("x", {}, timeout_s=60)
    assert caught.value.signal_name == "SIGILL"


def test_a_job_that_fails_gives_its_last_words(job: Callable[[str], None]) -> None:
    job("import ctypes; print('noise'); ctypes.CDLL('libnothere.so.1')")
    with pytest.raises(JobFailed, match="status 1: OSError: libnothere.so.1: cannot open"):
        run_quick_job("x", {}, timeout_s=60)


def test_a_job_that_takes_too_long_is_ended(job: Callable[[str], None]) -> None:
    job("import time; time.sleep(600)")
    with pytest.raises(JobFailed, match="longer than 0.2 s"):
        run_quick_job("x", {}, timeout_s=0.2)


def test_a_ctrl_c_while_a_process_is_started_is_not_lost() -> None:
    """Python ignores what is raised in the hooks that it runs around a fork."""
    script = (
        "import os, signal\n"
        "from appliance.models.subprocesses import started\n"
        "os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "try:\n"
        "    with started(['true']):\n"
        "        print('lost')\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("stopped\n", "")
