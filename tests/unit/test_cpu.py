from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.hardware.cpu import cgroup_cpu_quota, physical_cores


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def topology(*siblings: str) -> dict[str, str]:
    return {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{text}\n"
        for cpu, text in enumerate(siblings)
    }


@pytest.fixture(autouse=True)
def four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)


def test_hyperthreads_of_one_core_count_once(tmp_path: Path) -> None:
    assert physical_cores(write(tmp_path, topology("0,2", "1,3", "0,2", "1,3"))) == 2


def test_without_a_topology_each_processor_is_a_core(tmp_path: Path) -> None:
    assert physical_cores(tmp_path) == 4


def test_only_processors_that_may_be_used_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1}, raising=False)
    assert physical_cores(write(tmp_path, topology("0", "1", "2", "3"))) == 1


@pytest.mark.parametrize(
    ("limit", "wanted"), [("200000 100000", 2), ("350000 100000", 3), ("50000 100000", 1), ("max 100000", 4)]
)
def test_a_cgroup_quota_limits_the_cores(tmp_path: Path, limit: str, wanted: int) -> None:
    root = write(tmp_path, {"proc/self/cgroup": "0::/box\n", "sys/fs/cgroup/box/cpu.max": f"{limit}\n"})
    assert physical_cores(root) == wanted


def test_the_tightest_group_around_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/outer/inner\n",
        "sys/fs/cgroup/outer/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/outer/inner/cpu.max": "max 100000\n",
    }
    assert cgroup_cpu_quota(write(tmp_path, files)) == 1.5


def test_in_a_container_the_limit_stands_at_the_mount(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/not/visible\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}
    assert cgroup_cpu_quota(write(tmp_path, files)) == 1.0


def test_version_1_groups_are_read(tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct/box"
    files = {
        "proc/self/cgroup": "4:memory:/box\n3:cpu,cpuacct:/box\n",
        f"{folder}/cpu.cfs_quota_us": "250000\n",
        f"{folder}/cpu.cfs_period_us": "100000\n",
    }
    assert cgroup_cpu_quota(write(tmp_path, files)) == 2.5


@pytest.mark.parametrize("text", ["", "nonsense\n", "1\n"])
def test_odd_limits_are_no_limits(tmp_path: Path, text: str) -> None:
    assert cgroup_cpu_quota(write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": text})) is None
