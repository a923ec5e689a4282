from __future__ import annotations

from pathlib import Path

import pytest

from appliance.hardware.cgroup import GroupMemory, cgroup_cpu_quota, cgroup_memory
from appliance.hardware.ram import Ram, read_ram
from tests.unit.machine_files import MEMINFO, write

KIB, MIB = 1 << 10, 1 << 20
HOST_BYTES, AVAILABLE_BYTES = 16_000_000 * KIB, 12_000_000 * KIB


def v2(folder: str, *, limit: str, current: int, file: int = 0) -> dict[str, str]:
    return {
        f"sys/fs/cgroup/{folder}/memory.max": f"{limit}\n",
        f"sys/fs/cgroup/{folder}/memory.current": f"{current}\n",
        f"sys/fs/cgroup/{folder}/memory.stat": f"anon 1\nactive_file {file}\ninactive_file 0\n",
    }


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


def test_what_a_group_uses_leaves_out_copies_of_files(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/box\n", **v2("box", limit=str(500 * MIB), current=300 * MIB, file=120 * MIB)}
    (group,) = cgroup_memory(write(tmp_path, files))
    assert group == GroupMemory(limit_bytes=500 * MIB, used_bytes=180 * MIB)
    assert group.room_bytes == 320 * MIB


def test_the_tightest_limit_on_the_way_up_is_the_one_in_force(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/outer/inner\n",
        "proc/meminfo": MEMINFO,
        **v2("outer", limit=str(1000 * MIB), current=900 * MIB),
        **v2("outer/inner", limit="max", current=100 * MIB),
    }
    assert read_ram(write(tmp_path, files)) == Ram(
        total_bytes=HOST_BYTES,
        available_bytes=AVAILABLE_BYTES,
        limit_bytes=1000 * MIB,
        cgroup_limit_bytes=1000 * MIB,
        used_bytes=900 * MIB,
        room_bytes=100 * MIB,
    )


def test_room_is_what_the_fullest_group_leaves(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/outer/inner\n",
        "proc/meminfo": MEMINFO,
        **v2("outer", limit=str(2000 * MIB), current=1990 * MIB),
        **v2("outer/inner", limit=str(1000 * MIB), current=100 * MIB),
    }
    ram = read_ram(write(tmp_path, files))
    assert (ram.limit_bytes, ram.used_bytes, ram.room_bytes) == (1000 * MIB, 100 * MIB, 10 * MIB)


def test_version_1_memory_groups_are_read(tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/memory/box"
    files = {
        "proc/self/cgroup": "4:memory:/box\n3:cpu,cpuacct:/box\n0::/\n",
        "proc/meminfo": MEMINFO,
        f"{folder}/memory.limit_in_bytes": f"{256 * MIB}\n",
        f"{folder}/memory.usage_in_bytes": f"{200 * MIB}\n",
        f"{folder}/memory.stat": f"cache 1\ntotal_active_file {30 * MIB}\ntotal_inactive_file {20 * MIB}\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{900 * MIB}\n",
        "sys/fs/cgroup/memory/memory.stat": "cache 1\n",
    }
    ram = read_ram(write(tmp_path, files))
    assert (ram.cgroup_limit_bytes, ram.used_bytes, ram.room_bytes) == (256 * MIB, 150 * MIB, 106 * MIB)


def test_without_groups_the_machine_is_the_limit(tmp_path: Path) -> None:
    ram = read_ram(write(tmp_path, {"proc/meminfo": MEMINFO}))
    assert (ram.limit_bytes, ram.cgroup_limit_bytes, ram.used_bytes) == (HOST_BYTES, None, None)
    assert ram.room_bytes == AVAILABLE_BYTES


def test_a_limit_above_the_machines_memory_does_not_make_more_of_it(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", "proc/meminfo": MEMINFO, **v2("", limit=str(1 << 45), current=0)}
    ram = read_ram(write(tmp_path, files))
    assert (ram.limit_bytes, ram.room_bytes) == (HOST_BYTES, AVAILABLE_BYTES)


def test_in_a_container_the_memory_limit_stands_at_the_mount(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/../../not/visible\n", **v2("", limit=str(64 * MIB), current=0)}
    assert cgroup_memory(write(tmp_path, files)) == (GroupMemory(64 * MIB, 0),)


@pytest.mark.parametrize("limit", ["", "nonsense"])
def test_odd_memory_limits_are_passed_over(tmp_path: Path, limit: str) -> None:
    assert cgroup_memory(write(tmp_path, {"proc/self/cgroup": "0::/\n", **v2("", limit=limit, current=0)})) == ()
