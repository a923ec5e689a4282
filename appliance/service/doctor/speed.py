"""How fast the default model is computed, against what it once was: ``doctor.json`` in the state folder."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import msgspec

from appliance.engine.devices import Device, LlamaBuild, Speed
from appliance.errors import ConfigError, DoesNotFit
from appliance.files import write_atomically
from appliance.hardware.cpu import physical_cores
from appliance.hardware.fit import Fit
from appliance.models.store import StoredModel
from appliance.models.subprocesses import JobFailed
from appliance.schemas.doctor import Finding
from appliance.service.doctor.memory import fitted_by_limits
from appliance.service.doctor.subject import Subject

# Of the stored speed: below the first, something is in the way; below the second, something is wrong.
_SLOW_RATIO, _BROKEN_RATIO = 0.5, 0.2
N_PROMPT, N_DECODE = 128, 64
_MEASURE_S = 10.0
# A disk slower than this keeps the model from being loaded in time.
_LEAST_BYTES_PER_S, _START_S = 50e6, 60.0


class Floor(msgspec.Struct, frozen=True):
    """A speed that was measured when all was well."""

    prompt_tokens_per_s: float
    decode_tokens_per_s: float
    measured_on: str


class Floors:
    """By model file, device and number of threads: only what was measured alike is compared."""

    def __init__(self, state_dir: Path) -> None:
        """Raises ConfigError if what is there can't be read."""
        self._path = state_dir / "doctor.json"
        self._floors: dict[str, Floor] = {}
        try:
            self._floors = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Floor])
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(f"{self._path} can't be read: {error}; delete it to measure anew") from None

    def get(self, key: str) -> Floor | None:
        return self._floors.get(key)

    def put(self, key: str, floor: Floor) -> None:
        """Raises ConfigError if it can't be written."""
        self._floors[key] = floor
        write_atomically(self._path, msgspec.json.format(msgspec.json.encode(self._floors), indent=1))


def check_speed(subject: Subject, *, set_floor: bool) -> Iterator[Finding]:
    model, build = subject.default_model, subject.build
    if model is None or not isinstance(build, LlamaBuild):
        return  # the reason stands in their own lines
    try:
        fitted = fitted_by_limits(subject, model)
    except DoesNotFit:
        return
    if subject.is_running and any(fitted.memory[gpu.name].total_bytes > gpu.free_bytes for gpu in _used(fitted, build)):
        message = "not measured: the running appliance has the GPU's memory"
        yield Finding(name="speed", status="ok", message=message)
        return
    n_threads = subject.config.n_threads or physical_cores()
    n_layers = fitted.run.n_gpu_layers if build.gpus else 0
    try:
        speed = _measure(subject, model, n_threads=n_threads, n_gpu_layers=n_layers)
    except JobFailed as error:
        yield Finding(
            name="speed",
            status="failed",
            message=f"{model.name} can't be computed: {error.message}",
            remedy=f"check its bytes: appliance models verify --deep {model.name}",
        )
        return
    device = build.cpu_name if speed.device == "CPU" else speed.device
    layers = f", {n_layers} layers there" if build.gpus else ""
    key = f"{model.record.gguf_sha256} on {device} with {n_threads} threads{layers}"
    yield _compare(subject, key, f"{model.name} on {device}, {n_threads} threads", speed, set_floor)


def _measure(subject: Subject, model: StoredModel, *, n_threads: int, n_gpu_layers: int) -> Speed:
    """Raises JobFailed."""
    request = {
        "model": str(model.path),
        "n_gpu_layers": n_gpu_layers,
        "n_threads": n_threads,
        "n_prompt": N_PROMPT,
        "n_decode": N_DECODE,
        "limit_s": _MEASURE_S,
    }
    return msgspec.convert(subject.tools.run_job("speed", request, timeout_s=limit_s(model)), Speed)


def _used(fitted: Fit, build: LlamaBuild) -> list[Device]:
    return [gpu for gpu in build.gpus if gpu.name in fitted.memory]


def limit_s(model: StoredModel | None) -> float:
    """How long measuring may take, loading included."""
    n_bytes = model.record.gguf_bytes if model is not None else 0
    return _START_S + 2 * _MEASURE_S + n_bytes / _LEAST_BYTES_PER_S


def _compare(subject: Subject, key: str, what: str, speed: Speed, set_floor: bool) -> Finding:
    prompt, decode = speed.prompt_tokens_per_s, speed.decode_tokens_per_s
    message = f"{what}: {decode:.1f} tokens/s, prompts {prompt:.0f} tokens/s"
    floors = Floors(subject.config.state_dir)
    floor = floors.get(key)
    if floor is None or set_floor:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        floors.put(key, Floor(prompt, decode, today))
        return Finding(name="speed", status="ok", message=f"{message}; stored to compare later runs with")
    ratio = min(prompt / floor.prompt_tokens_per_s, decode / floor.decode_tokens_per_s)
    message += (
        f"; {ratio:.0%} of {floor.measured_on}'s {floor.decode_tokens_per_s:.1f} and {floor.prompt_tokens_per_s:.0f}"
    )
    if ratio >= _SLOW_RATIO:
        return Finding(name="speed", status="ok", message=message)
    if subject.is_running:
        remedy = "the appliance that runs here may be busy: look again when it is idle (appliance status)"
    else:
        remedy = "see what else uses the processor or GPU (top, nvidia-smi) and whether it is throttled"
    return Finding(
        name="speed",
        status="warning" if ratio >= _BROKEN_RATIO else "failed",
        message=message,
        remedy=f"{remedy}; if this is how fast it is now, appliance doctor --set-floor",
    )
