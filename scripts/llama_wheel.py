#!/usr/bin/env python3
"""Builds the wheel of llama-cpp-python from its pinned source package and prints the wheel's path.

Two flavours:

- ``native``: compiled for this processor. Quick to build, and what a newcomer waits for.
- ``portable``: one CPU library for each generation of processors, chosen when the engine starts, so that
  one image or wheel runs at full speed everywhere and never dies of an illegal instruction.

``scripts/patches/`` holds what is changed in llama.cpp. Finished wheels stay in a cache folder keyed by source hash,
patches, flags, Python platform and (native) processor, so that only the first call compiles. ``CMAKE_ARGS`` from the
environment is added to the flags, for example ``CMAKE_ARGS=-DGGML_CUDA=ON``. It needs what ``requirements/build.txt``
pins in the Python that runs it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.util
import inspect
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE_LOCK = ROOT / "requirements" / "llama.txt"
BUILD_LOCK = ROOT / "requirements" / "build.txt"
LLAMA_ONLY = ROOT / "scripts" / "llama_only.cmake"
PATCHES = sorted((ROOT / "scripts" / "patches").glob("*.patch"))

# OpenMP's waiting threads spin and starve every other process; ggml's own thread pool does not.
# The multimodal library (LLAVA_BUILD) is not used.
COMMON_FLAGS = ("-DGGML_OPENMP=OFF", "-DLLAVA_BUILD=OFF")
FLAVOUR_FLAGS = {
    "native": (),
    "portable": ("-DGGML_NATIVE=OFF", "-DGGML_BACKEND_DL=ON", "-DGGML_CPU_ALL_VARIANTS=ON"),
}
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
# Measured on two quiet cores; see README.
EXPECTED_MINUTES = {"native": 3, "portable": 8}


def say(message: str) -> None:
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "llm-appliance"


def processor() -> str:
    """The processor's model and instruction sets, as text: what ``-march=native`` depends on."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    wanted = re.compile(r"^(model name|flags|Features|CPU part)\s*:.*$", re.MULTILINE)
    return "\n".join(sorted({match.group(0) for match in wanted.finditer(cpuinfo.read_text())}))


def cache_key(flavour: str, flags: list[str]) -> str:
    parts = [
        SOURCE_LOCK.read_text(),
        BUILD_LOCK.read_text(),
        LLAMA_ONLY.read_text(),
        *(patch.read_text() for patch in PATCHES),
        inspect.getsource(kept_members),
        " ".join(flags),
        platform.system(),
        platform.machine(),
        "-".join(platform.libc_ver()),
    ]
    if flavour == "native":
        parts.append(processor())
    return f"{flavour}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"


def run_showing_progress(command: list[str], env: dict[str, str], log: Path) -> None:
    """Runs ``command`` and repeats ninja's ``[done/all]`` counter on stderr; the rest goes to ``log``."""
    counter = re.compile(rb"^\s*\[(\d+)/(\d+)\]")
    started, said = time.monotonic(), 0.0
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout is not None
        for line in process.stdout:
            out.write(line)
            now = time.monotonic()
            match = counter.match(line)
            # A terminal gets a running counter, a log file a line every 20 seconds.
            if match and (sys.stderr.isatty() or now - said > 20):
                said = now
                text = f"  compiled {int(match[1])} of {int(match[2])} files, {now - started:.0f} s"
                sys.stderr.write(f"\r{text}" if sys.stderr.isatty() else f"{text}\n")
                sys.stderr.flush()
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    if process.wait() != 0:
        say("".join(f"  {line}\n" for line in log.read_text(errors="replace").splitlines()[-40:]))
        sys.exit(f"llama-cpp-python did not build; the whole log is {log}")


def kept_members(wheel: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    """The wheel's files without headers, CMake files and the extra copies of every library.

    A library is installed up to six times: in ``lib/`` and in ``llama_cpp/lib/``, each under its plain
    name, its soname and its versioned name. ctypes opens libllama and libggml by their plain names, the
    linker opens the rest by soname. CPU variants (``bin/`` in the portable flavour) stay where ggml puts them.
    """
    for name in wheel.namelist():
        if name.endswith("/RECORD") or name.startswith(("lib/", "include/")):
            continue
        library = re.fullmatch(r"llama_cpp/lib/lib([\w-]+)\.so(\.\d+)?(\.[\d.]+)?", name)
        if library:
            stem, soname, version = library.groups()
            opened_by_ctypes = stem in ("llama", "ggml") and soname is None
            opened_by_linker = stem != "llama" and soname is not None and version is None
            if not (opened_by_ctypes or opened_by_linker):
                continue
        yield name, wheel.read(name)


def strip_wheel(source: Path, target: Path) -> None:
    """Writes ``source`` without what is never loaded to ``target``, with a fresh RECORD."""
    with zipfile.ZipFile(source) as wheel:
        dist_info = next(name.split("/")[0] for name in wheel.namelist() if name.endswith("/METADATA"))
        members = dict(kept_members(wheel))
    record = []
    part = target.with_suffix(f".{os.getpid()}.part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in sorted(members.items()):
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(data)}")
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = (0o755 if ".so" in name else 0o644) << 16
            wheel.writestr(info, data, zipfile.ZIP_DEFLATED)
        record.append(f"{dist_info}/RECORD,,\n")
        wheel.writestr(f"{dist_info}/RECORD", "\n".join(record))
    os.replace(part, target)


def fetch_source(folder: Path) -> Path:
    """The source package; pip downloads it and checks its hash, unless an earlier call has."""
    kept = folder / hashlib.sha256(SOURCE_LOCK.read_bytes()).hexdigest()[:16]
    source = next(kept.glob("llama_cpp_python-*.tar.gz"), None)
    if source is not None:
        return source
    say("downloading the source package of llama-cpp-python (77 MB)")
    with tempfile.TemporaryDirectory(prefix="llama-source-") as scratch:
        download = [*PIP, "download", "--quiet", "--no-deps", "--no-build-isolation", "--require-hashes"]
        result = subprocess.run([*download, "-r", SOURCE_LOCK, "-d", scratch], stdout=sys.stderr)
        if result.returncode != 0:
            sys.exit("the source package of llama-cpp-python can't be downloaded: see pip's messages above")
        (source,) = Path(scratch).glob("llama_cpp_python-*.tar.gz")
        kept.mkdir(parents=True, exist_ok=True)
        part = kept / f"{source.name}.{os.getpid()}.part"
        shutil.copy(source, part)
        os.replace(part, kept / source.name)
    return kept / source.name


def patched_source(source: Path, work: Path) -> Path:
    """The source package unpacked below ``work``, with our patches applied; each says on top what it is for."""
    shutil.unpack_archive(source, work)
    (folder,) = work.glob("llama_cpp_python-*")
    for patch in PATCHES:
        result = subprocess.run(["patch", "-p1", "--batch", "-i", patch], cwd=folder, capture_output=True, text=True)
        if result.returncode != 0:
            sys.exit(f"{patch.name} does not fit {source.name}:\n{result.stdout}{result.stderr}")
    return folder


def build(flavour: str, flags: list[str], source: Path, destination: Path) -> Path:
    for tool, package in (("cmake", "cmake"), ("c++", "build-essential"), ("patch", "patch")):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is missing. Install it with: sudo apt-get install {package}")
    minutes = EXPECTED_MINUTES[flavour]
    say(f"building llama.cpp ({flavour}): about {minutes} minutes on 2 cores, only this first time")
    with tempfile.TemporaryDirectory(prefix="llama-wheel-") as scratch:
        work = Path(scratch)
        # CMake receives the path through an argument string: a copy keeps odd characters out of it.
        shutil.copy(LLAMA_ONLY, work / "llama_only.cmake")
        cmake_args = [*flags, f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={work / 'llama_only.cmake'}"]
        env = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # for ninja
            "CMAKE_ARGS": shlex.join(cmake_args),
            "CMAKE_GENERATOR": "Ninja",
            "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1),
        }
        wheel = [*PIP, "wheel", "--verbose", "--no-build-isolation", "--no-deps", "--no-index", "--no-cache-dir"]
        wheel += ["-w", str(work / "out"), str(patched_source(source, work))]
        destination.mkdir(parents=True, exist_ok=True)
        run_showing_progress(wheel, env, destination / "build.log")
        (built,) = (work / "out").glob("llama_cpp_python-*.whl")
        strip_wheel(built, destination / built.name)
        return destination / built.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flavour", choices=sorted(FLAVOUR_FLAGS), default="native")
    parser.add_argument("--source", action="store_true", help="only fetch the source package and print its path")
    parser.add_argument("--cache-dir", type=Path, default=cache_dir(), help="default: %(default)s")
    args = parser.parse_args()
    if importlib.util.find_spec("scikit_build_core") is None:
        sys.exit(f"scikit-build-core is missing. Install it with: {sys.executable} -m pip install -r {BUILD_LOCK}")
    sources = args.cache_dir / "sources"
    if args.source:
        sys.stdout.write(f"{fetch_source(sources)}\n")
        return
    flags = [*COMMON_FLAGS, *FLAVOUR_FLAGS[args.flavour], *shlex.split(os.environ.get("CMAKE_ARGS", ""))]
    destination = args.cache_dir / "wheels" / cache_key(args.flavour, flags)
    started = time.monotonic()
    wheel = next(destination.glob("*.whl"), None)
    if wheel is None:
        wheel = build(args.flavour, flags, fetch_source(sources), destination)
        say(f"built {wheel.name} in {time.monotonic() - started:.0f} s, kept in {destination}")
    sys.stdout.write(f"{wheel}\n")


if __name__ == "__main__":
    main()
