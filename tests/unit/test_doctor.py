from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path

import msgspec
import pytest

from appliance.engine.devices import Speed
from appliance.hardware.disks import Disk, read_speed
from appliance.hardware.memory_use import GIB, MIB
from appliance.hardware.ram import read_ram
from appliance.models.subprocesses import JobFailed
from appliance.schemas.doctor import Finding, diagnosis
from appliance.service.doctor.examine import examine_each
from appliance.service.doctor.limit import TookTooLong, limited
from appliance.service.doctor.subject import Tools
from appliance.settings import ModelSettings, Settings
from tests.made_up_machine import CPU, RAM, cpu_build, examined, jobs, machine, named, store
from tests.unit.machine_files import MEMINFO, write


def test_a_sound_machine_is_ok_throughout(tmp_path: Path) -> None:
    found = examined(store(tmp_path), speed=True)
    assert [(finding.name, finding.status) for finding in found if finding.status != "ok"] == []
    assert {"processor", "llama.cpp", "GPU", "lock file", "default model", "memory", "store speed", "speed"} <= {
        finding.name for finding in found
    }


def test_every_finding_that_is_not_ok_says_what_to_do(tmp_path: Path) -> None:
    config = store(tmp_path, model="other", require_gpu=True, host="203.0.113.5", port=8080)
    found = examined(config, job=jobs(JobFailed("SIGILL ended it: it said nothing", "SIGILL")))
    bad = [finding for finding in found if finding.status != "ok"]
    assert {"processor", "llama.cpp", "GPU", "default model", "port"} == {finding.name for finding in bad}
    assert [finding.name for finding in bad if not finding.remedy] == []


# --- instruction sets ---


def test_a_crash_by_an_illegal_instruction_is_named_as_such(tmp_path: Path) -> None:
    job = jobs(JobFailed("SIGILL ended it: it said nothing", "SIGILL"))
    (finding,) = named("processor", examined(store(tmp_path), job=job))
    assert finding.status == "failed"
    assert "SIGILL" in finding.message
    assert "WHEEL=portable" in (finding.remedy or "")


def test_a_build_that_needs_what_the_processor_lacks_is_told_by_name(tmp_path: Path) -> None:
    job = jobs(cpu_build(cpu_features=("AVX2", "FMA", "AVX512", "AVX512_VNNI")))
    (finding,) = named("processor", examined(store(tmp_path), job=job))
    assert finding.status == "failed"
    assert "it lacks AVX512, AVX512_VNNI" in finding.message


def test_a_build_that_leaves_the_processor_unused_is_a_warning(tmp_path: Path) -> None:
    (finding,) = named("processor", examined(store(tmp_path), job=jobs(cpu_build(cpu_features=("AVX",)))))
    assert finding.status == "warning"
    assert "without AVX2, FMA, which this processor has" in finding.message


def test_an_old_processor_is_a_warning_that_needs_no_rebuild(tmp_path: Path) -> None:
    old = msgspec.structs.replace(CPU, instruction_sets=("sse4_2", "avx"))
    build = cpu_build(cpu_features=("AVX",), variants=("sandybridge", "haswell"), variant="sandybridge")
    (finding,) = named("processor", examined(store(tmp_path), found=machine(cpu=old), job=jobs(build)))
    assert (finding.status, finding.remedy) == ("warning", None)
    assert "it has no AVX2, FMA" in finding.message


def test_the_variant_that_a_portable_build_takes_is_named(tmp_path: Path) -> None:
    build = cpu_build(variants=("haswell", "x64"), variant="haswell")
    (finding,) = named("processor", examined(store(tmp_path), job=jobs(build)))
    assert "portable build, its haswell library" in finding.message


def test_a_library_that_can_not_be_loaded_is_quoted(tmp_path: Path) -> None:
    reason = "status 1: OSError: libcuda.so.1: cannot open shared object file"
    (finding,) = named("llama.cpp", examined(store(tmp_path), job=jobs(JobFailed(reason))))
    assert (finding.status, reason in finding.message) == ("failed", True)
    assert "--gpus all" in (finding.remedy or "")


# --- memory ---


def test_a_cgroup_that_is_too_small_for_the_default_model_is_a_failure(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "proc/meminfo": MEMINFO,
        "sys/fs/cgroup/memory.max": f"{100 * MIB}\n",
        "sys/fs/cgroup/memory.current": f"{MIB}\n",
        "sys/fs/cgroup/memory.stat": "anon 1\n",
    }
    ram = read_ram(write(tmp_path / "root", files))
    found = examined(store(tmp_path, n_bytes=300 * MIB), found=machine(ram=ram), speed=True)
    (finding,) = named("memory", found)
    assert finding.status == "failed"
    assert "100 MiB of RAM may be used (a cgroup's limit; the machine has 15.3 GiB)" in finding.message
    assert named("speed", found) == []  # it would be killed


def test_a_draft_model_is_counted_and_told_if_it_is_not_there(tmp_path: Path) -> None:
    config = store(tmp_path, n_bytes=300 * MIB, models={"fake": ModelSettings(draft_model="fake")})
    (with_draft,) = named("memory", examined(config))
    (alone,) = named("memory", examined(config.model_copy(update={"models": {}})))
    told = [int(finding.message.split("takes about ")[1].split(" MiB")[0]) for finding in (alone, with_draft)]
    assert told[1] > told[0] + 290
    config = config.model_copy(update={"models": {"fake": ModelSettings(draft_model="none")}})
    stored, draft = named("default model", examined(config))
    assert (stored.status, draft.status) == ("ok", "failed")
    assert "models.fake.draft_model=none: the model 'none' does not exist" in draft.message
    assert draft.remedy


def test_memory_that_others_have_is_a_warning(tmp_path: Path) -> None:
    ram = msgspec.structs.replace(RAM, room_bytes=50 * MIB)
    (finding,) = named("memory", examined(store(tmp_path, n_bytes=300 * MIB), found=machine(ram=ram)))
    assert (finding.status, "50 MiB are free" in finding.message) == ("warning", True)


def test_memory_that_the_running_appliance_has_is_no_warning(tmp_path: Path) -> None:
    ram = msgspec.structs.replace(RAM, room_bytes=50 * MIB)
    (finding,) = named("memory", examined(store(tmp_path), found=machine(ram=ram), serving=True))
    assert finding.status == "ok"


# --- lock file and store ---


def test_a_lock_file_that_can_not_be_read_hides_nothing_else(tmp_path: Path) -> None:
    config = store(tmp_path)
    config.models_lock.write_text("schema = 1\n[[models]\n")
    found = examined(config)
    (finding,) = named("lock file", found)
    assert finding.status == "failed"
    assert "models.lock" in finding.message
    assert {"processor", "memory", "state folder", "port"} <= {each.name for each in found}


def test_a_default_model_that_is_not_stored_is_a_failure_with_the_command(tmp_path: Path) -> None:
    config = store(tmp_path).model_copy(update={"models_dir": tmp_path / "elsewhere"})
    found = examined(config)
    assert "absent: fake@" in named("lock file", found)[0].message
    (finding,) = named("default model", found)
    assert (finding.status, finding.remedy) == ("failed", "run: appliance models fetch fake")


def test_a_damaged_file_is_named_once_in_full(tmp_path: Path) -> None:
    config = store(tmp_path)
    (model,) = tmp_path.glob("fake/*/model.gguf")
    model.write_bytes(b"other")
    found = examined(config)
    damaged, _ = named("lock file", found)
    assert damaged.status == "failed"
    assert "models.lock says" in damaged.message
    (default,) = named("default model", found)
    assert default.message == "its file can't be used, see above: nothing can be served"


def test_a_store_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/store/record.json")

    monkeypatch.setattr("appliance.models.store.ModelStore.find_version", refuse)
    found = examined(store(tmp_path))
    finding, summary = named("lock file", found)
    assert finding.status == "failed"
    assert "can't be read: /store/record.json: Permission denied" in finding.message
    assert "delete" not in (finding.remedy or "")
    assert "unreadable: fake@" in summary.message


def test_a_model_that_is_in_no_lock_is_a_failure_with_the_names(tmp_path: Path) -> None:
    (finding,) = named("default model", examined(store(tmp_path, model="other")))
    assert (finding.status, "there are: fake" in finding.message) == ("failed", True)


# --- disks ---


def test_a_full_disk_is_a_warning_with_what_is_wanted(tmp_path: Path) -> None:
    disks = (
        Disk("models_dir", "/m", exists=True, total_bytes=9 * GIB, free_bytes=GIB // 2),
        Disk("image_models_dir", "/i", exists=True, total_bytes=9 * GIB, free_bytes=0, is_read_only=True),
        Disk("state_dir", "/s", exists=True, problem="Permission denied"),
    )
    models, image, state = named("disk", examined(store(tmp_path), found=machine(disks=disks)))
    assert (models.status, models.remedy) == (
        "warning",
        "free at least 1.0 GiB; appliance models gc shows what is not served",
    )
    assert image.status == "ok"
    assert (state.status, "Permission denied" in state.message) == ("failed", True)


def test_a_store_that_can_not_be_read_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **limits: float) -> float:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("appliance.service.doctor.disks.read_speed", refuse)
    (finding,) = named("store speed", examined(store(tmp_path)))
    assert finding.status == "failed"
    assert "can't be read: Permission denied" in finding.message


def test_a_model_that_takes_long_to_load_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.service.doctor.disks.read_speed", lambda path, **limits: 0.05)
    (finding,) = named("store speed", examined(store(tmp_path)))  # the file has 4 bytes
    assert (finding.status, "80.0 s from the disk" in finding.message) == ("warning", True)


def test_reading_ends_at_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(9 * MIB))
    times = iter([0.0, 0.0, 0.5, 2.0, 2.0])
    assert read_speed(path, max_bytes=100 * MIB, max_s=1.0, clock=lambda: next(times)) == 8 * MIB / 2.0
    times = iter([0.0, 0.0, 1.0, 1.0])
    assert read_speed(path, max_bytes=4 * MIB, max_s=9.0, clock=lambda: next(times)) == 4 * MIB / 1.0


def test_a_state_folder_that_can_not_be_written_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (finding,) = named("state folder", examined(store(tmp_path, state_dir=tmp_path / "file" / "state")))
    assert finding.status == "failed"
    assert "APPLIANCE_STATE_DIR" in (finding.remedy or "")


# --- port ---


@pytest.fixture
def taken() -> tuple[int, socket.socket]:
    listener = socket.create_server(("127.0.0.1", 0))
    return listener.getsockname()[1], listener


def test_a_port_that_another_program_has_is_a_failure_with_its_pid(
    tmp_path: Path, taken: tuple[int, socket.socket]
) -> None:
    port, listener = taken
    with listener:
        (finding,) = named("port", examined(store(tmp_path, port=port), holder=4242))
        assert (finding.status, "in use by pid 4242" in finding.message) == ("failed", True)
        assert "kill 4242" in (finding.remedy or "")


def test_the_running_appliance_may_have_its_port(tmp_path: Path, taken: tuple[int, socket.socket]) -> None:
    port, listener = taken
    config = store(tmp_path, port=port)
    config.state_dir.mkdir()
    (config.state_dir / "lock").write_text(f"{os.getpid()}\n")
    with listener:
        (finding,) = named("port", examined(config, holder=os.getpid()))
        assert (finding.status, "the running appliance" in finding.message) == ("ok", True)


def test_the_server_does_not_ask_for_its_own_port(tmp_path: Path) -> None:
    assert named("port", examined(store(tmp_path), serving=True)) == []


# --- speed ---


def test_the_first_speed_is_stored_and_later_ones_are_compared(tmp_path: Path) -> None:
    config = store(tmp_path)

    def speed(prompt: float, decode: float, *, set_floor: bool = False) -> Finding:
        job = jobs(cpu_build(), Speed(prompt, decode, "CPU", 0.1))
        (finding,) = named("speed", examined(config, job=job, speed=True, set_floor=set_floor))
        return finding

    first = speed(400, 100)
    assert (first.status, "stored" in first.message) == ("ok", True)
    assert speed(300, 60).status == "ok"
    slow = speed(400, 30)
    assert slow.status == "warning"
    assert "30% of" in slow.message
    assert speed(60, 100).status == "failed"
    assert speed(60, 20, set_floor=True).status == "ok"
    assert speed(60, 20).status == "ok"


def test_other_devices_and_threads_have_speeds_of_their_own(tmp_path: Path) -> None:
    examined(store(tmp_path), speed=True)
    slower = jobs(cpu_build(), Speed(1, 1, "CPU", 0.1))
    config = Settings(
        models_lock=tmp_path / "models.lock", models_dir=tmp_path, state_dir=tmp_path / "state", port=0, n_threads=3
    )
    (finding,) = named("speed", examined(config, job=slower, speed=True))
    assert (finding.status, "stored" in finding.message) == ("ok", True)


def test_a_model_that_can_not_be_computed_is_a_failure(tmp_path: Path) -> None:
    job = jobs(cpu_build(), JobFailed("it took longer than 80 s and was ended"))
    (finding,) = named("speed", examined(store(tmp_path), job=job, speed=True))
    assert (finding.status, "took longer" in finding.message) == ("failed", True)


def test_a_broken_file_of_speeds_says_so(tmp_path: Path) -> None:
    config = store(tmp_path)
    config.state_dir.mkdir()
    (config.state_dir / "doctor.json").write_text("{")
    (finding,) = named("speed", examined(config, speed=True))
    assert finding.status == "failed"
    assert "delete it to measure anew" in finding.message


# --- the whole ---


def test_a_check_that_breaks_or_a_machine_that_can_not_be_read_hides_nothing(tmp_path: Path) -> None:
    def broken(config: Settings) -> object:
        raise OSError(errno.EIO, "Input/output error")

    tools = Tools(probe=broken, run_job=jobs(cpu_build()), holder_of_port=lambda port: None)  # type: ignore[arg-type]
    found = list(examine_each(store(tmp_path), serving=False, speed=False, tools=tools))
    assert named("processor", found)[0].status == "failed"
    assert named("default model", found)[0].status == "ok"


def test_a_check_that_raises_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("oops")

    monkeypatch.setattr("appliance.service.doctor.port._try_out", broken)
    (finding,) = named("port", examined(store(tmp_path, port=8080)))
    assert (finding.status, finding.message) == ("failed", "the check broke: RuntimeError: oops")


def test_work_that_hangs_is_given_up() -> None:
    end = threading.Event()
    try:
        with pytest.raises(TookTooLong, match="no answer within"):
            limited(end.wait, limit_s=0.01)
    finally:
        end.set()


def test_the_worst_finding_decides() -> None:
    ok, warning, failed = (Finding(name="x", status=status, message="") for status in ("ok", "warning", "failed"))
    assert diagnosis([ok]).status == "ok"
    assert diagnosis([ok, warning, ok]).status == "warning"
    assert diagnosis([failed, warning]).status == "failed"
