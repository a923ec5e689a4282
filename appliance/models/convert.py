"""Makes an unquantized GGUF file of a repository's files, with the converter from llama-cpp-python's source package.

The converter needs torch and transformers, which have no place in a server: it stands in an environment of its own,
which `make convert` installs, and runs as a process without network.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from appliance.errors import ConfigError
from appliance.models.lock import Conversion
from appliance.models.report import Report
from appliance.models.safetensors import largest_tensor_bytes
from appliance.models.subprocesses import ended, last_lines, started

DEFAULT_PYTHON = Path(".venv-convert/bin/python")
REMEDY = "install it with `make convert`, or set APPLIANCE_CONVERTER_PYTHON to the Python of an environment that has it"
# Where `make convert` puts the converter, below its environment, and what says which it is.
CONVERTER_FOLDER = Path("share/llm-appliance/converter")
MANIFEST = "converter.json"
SANDBOX = Path(__file__).with_name("sandbox.py")
# Python, torch and transformers themselves; besides, a few copies of the largest tensor are in memory at a time.
_BASE_BYTES = 3 << 30
_LARGEST_TENSORS = 6
_PROGRESS = re.compile(rb"Writing:\s+(\d+)%")
# What the converter says, and what it means to who reads it.
_KNOWN_FAILURES = (
    (r"Model (\S+) is not supported|Architecture '(\S+)' not supported", "llama.cpp has no converter for {}"),
    (r"BPE pre-tokenizer was not recognized", "llama.cpp doesn't know its tokenizer"),
    (r"File not found: (\S+)|No such file or directory: '([^']+)'", "the file {} is missing"),
    (r"Missing or incomplete model files: (.+)", "weights are missing: {}"),
    (r"Weights only load failed", "its pickled weights hold more than numbers, which could run as a program"),
    (r"conversion has no network", "the converter asked the network for something that is not in the repository"),
    (r"MemoryError|Cannot allocate memory|can't allocate memory", "it wanted more memory than it may have"),
)


class Manifest(msgspec.Struct, frozen=True):
    version: str
    sha256: str


class Converter:
    def __init__(self, python: Path, report: Report) -> None:
        """Raises ConfigError, with the remedy, if there is no converter."""
        self._python = python
        self._folder = python.parent.parent / CONVERTER_FOLDER
        self._report = report
        if not os.access(python, os.X_OK):
            raise ConfigError(f"the converter's environment is not there ({python}); {REMEDY}")
        try:
            self._manifest = msgspec.json.decode((self._folder / MANIFEST).read_bytes(), type=Manifest)
        except (OSError, msgspec.DecodeError):
            raise ConfigError(f"{python} has no converter in {self._folder}; {REMEDY}") from None

    def conversion(self, outtype: str) -> Conversion:
        """What a lock says of files that this converter makes."""
        return Conversion(self._manifest.version, self._manifest.sha256, outtype)

    def check(self, wanted: Conversion) -> None:
        """Raises ConfigError if another converter is wanted: its files have other bytes."""
        if wanted.converter_sha256 != self._manifest.sha256:
            raise ConfigError(
                f"models.lock wants the converter of llama-cpp-python {wanted.converter_version} "
                f"(sha256 {wanted.converter_sha256}), here is that of {self._manifest.version} "
                f"({self._manifest.sha256}); install the release that it was locked with, or "
                f"`appliance models upgrade` it"
            )

    def convert(self, folder: Path, model_name: str, outtype: str, target: Path) -> None:
        """Raises ConfigError with what is wrong with the model, or with the converter's last words."""
        command = [
            *("convert_hf_to_gguf.py", folder.resolve()),
            *("--outfile", target.resolve(), "--outtype", outtype, "--model-name", model_name),
        ]
        limit = _BASE_BYTES + _LARGEST_TENSORS * largest_tensor_bytes(folder)
        self._run([str(word) for word in command], limit, f"converting {model_name} to {outtype}")

    def convert_adapter(self, folder: Path, base: Path, name: str, target: Path) -> None:
        """``folder``: an adapter's files; ``base``: those of the model that it belongs to. Raises ConfigError."""
        command = ["convert_lora_to_gguf.py", folder, "--base", base, "--outfile", target.resolve(), "--outtype", "f16"]
        limit = _BASE_BYTES + _LARGEST_TENSORS * largest_tensor_bytes(folder)
        self._run([str(word) for word in command], limit, f"converting the adapter {name}")

    def _run(self, command: list[str], limit_bytes: int, title: str) -> None:
        script, *arguments = command
        python = [str(self._python), "-I", "-B", str(SANDBOX), str(limit_bytes), str(self._folder / script)]
        with (
            tempfile.TemporaryDirectory(prefix="appliance-convert-") as scratch,
            tempfile.TemporaryFile() as log,
            self._report.stage(title, 100) as advance,
        ):
            options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "env": _environment(scratch)}
            with started([*python, *arguments], cwd=scratch, **options) as process:
                assert process.stderr is not None
                stderr = process.stderr.fileno()
                _follow(lambda size: os.read(stderr, size), log.write, advance)
            if process.returncode != 0:
                raise ConfigError(f"{title} failed: {_explain(process.returncode, last_lines(log, 30))}")


def _follow(read: Callable[[int], bytes], keep: Callable[[bytes], object], advance: Callable[[int], None]) -> None:
    """Until the process closes its output; the progress bar in it becomes ours."""
    percent, end = 0, b""
    while data := read(65536):
        keep(data)
        end = (end + data)[-200:]
        found = _PROGRESS.findall(end)
        if found and int(found[-1]) > percent:
            advance(int(found[-1]) - percent)
            percent = int(found[-1])


def _environment(scratch: str) -> dict[str, str]:
    """Nothing of ours: above all no token."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    # Reads no configuration of the user, and the same each time.
    return {**kept, **offline, "HOME": scratch, "HF_HOME": scratch, "TMPDIR": scratch, "LC_ALL": "C.UTF-8"}


def _explain(status: int, words: str) -> str:
    for pattern, meaning in _KNOWN_FAILURES:
        if match := re.search(pattern, words):
            return meaning.format(next((group for group in match.groups() if group), ""))
    return f"{ended(status)}:\n" + "\n".join(words.splitlines()[-5:])


def check_source(folder: Path, *, allow_code: bool) -> None:
    """Looks at a repository's files before any program reads them.

    Raises:
        ConfigError: it would run code of its own, has links, names no architecture, or its weights are cut off.
    """
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise ConfigError(f"{path} is a link; a model's folder must hold files")
        if path.suffix == ".py" and not allow_code:
            raise ConfigError(f"{path} is program code, which conversion might run; trust it with --allow-code")
    for name in ("config.json", "tokenizer_config.json"):
        content = _json(folder / name)
        if "auto_map" in content and not allow_code:
            raise ConfigError(
                f"{folder / name} names code of its own (auto_map), which conversion might run; "
                "trust it with --allow-code"
            )
        if name == "config.json" and not content.get("architectures"):
            raise ConfigError(f"{folder / name} names no architecture: llama.cpp can't know what the model is")
    largest_tensor_bytes(folder)


def _json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON: {error}") from None
    return content if isinstance(content, dict) else {}
