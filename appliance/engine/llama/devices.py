"""``python -m appliance.engine.llama.devices '{}'``: what llama.cpp can compute on (see ``job``)."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

import msgspec

from appliance.engine.build import engine_build
from appliance.engine.devices import Device, LlamaBuild
from appliance.engine.llama.job import run_job
from appliance.engine.llama.library import ggml, has_gpu, lib

_KINDS = ("cpu", "gpu", "igpu", "accel", "meta")  # ggml_backend_dev_type
_LIBRARIES = Path(lib.__file__).parent.parent / "bin"
_MAPS = Path("/proc/self/maps")


class _Capabilities(ctypes.Structure):
    """``struct ggml_backend_dev_caps`` of ggml-backend.h."""

    _fields_ = tuple(
        (name, ctypes.c_bool) for name in ("async", "host_buffer", "buffer_from_host_ptr", "events", "mmap_support")
    )


class _Properties(ctypes.Structure):
    """``struct ggml_backend_dev_props`` of ggml-backend.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("caps", _Capabilities),
    )


def _devices() -> tuple[Device, ...]:
    count = _function("ggml_backend_dev_count", ctypes.c_size_t)
    get = _function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    return tuple(_device(get(number)) for number in range(count()))


def _device(handle: int) -> Device:
    properties = _Properties()
    fill = _function("ggml_backend_dev_get_props", None, ctypes.c_void_p, ctypes.POINTER(_Properties))
    fill(handle, ctypes.byref(properties))
    registry = _function("ggml_backend_dev_backend_reg", ctypes.c_void_p, ctypes.c_void_p)(handle)
    return Device(
        name=_text(properties.name),
        description=_text(properties.description),
        kind=_KINDS[properties.type] if properties.type < len(_KINDS) else f"type {properties.type}",
        backend=_registry_name(registry),
        total_bytes=properties.memory_total,
        free_bytes=properties.memory_free,
        pci_bus_id=_text(properties.device_id) or None,
    )


def _backends() -> tuple[str, ...]:
    count = _function("ggml_backend_reg_count", ctypes.c_size_t)
    get = _function("ggml_backend_reg_get", ctypes.c_void_p, ctypes.c_size_t)
    return tuple(_registry_name(get(number)) for number in range(count()))


def _registry_name(handle: int) -> str:
    return _text(_function("ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)(handle))


def cpu_features(system_info: str) -> tuple[str, ...]:
    """Names of the CPU backend's features that are on, from ``llama_print_system_info``."""
    found = re.search(r"\bCPU : (.*?)(?:$|\w+ : )", system_info)
    pairs = (part.partition("=") for part in found[1].split("|")) if found else ()
    return tuple(name.strip() for name, _, value in pairs if value.strip() not in ("", "0"))


def _loaded(pattern: str) -> str | None:
    """The path of a shared library in this process; None also where the system doesn't say."""
    if not _MAPS.exists():
        return None
    paths = {line.split(maxsplit=5)[-1].strip() for line in _MAPS.read_text().splitlines()}
    return next((path for path in sorted(paths) if re.search(pattern, path)), None)


def _cuda_runtime() -> str | None:
    path = _loaded(r"/libcudart\b[^/]*\.so")
    if path is None:
        return None
    version = ctypes.c_int()
    if ctypes.CDLL(path).cudaRuntimeGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _not_loaded() -> dict[str, str]:
    """The libraries of backends that are installed, but that can't be loaded: ggml says nothing of them."""
    reasons = {}
    for path in sorted(_LIBRARIES.glob("libggml-*.so")):
        if "-cpu-" in path.name:
            continue
        try:
            ctypes.CDLL(str(path))
        except OSError as error:
            reasons[path.stem.removeprefix("libggml-")] = str(error)
    return reasons


def _look(request: dict[str, Any]) -> Any:
    system_info = _text(lib.llama_print_system_info())
    taken = _loaded(r"ggml-cpu-[^/]*$")
    found = LlamaBuild(
        build=engine_build(),
        system_info=system_info.strip().rstrip("|").strip(),
        backends=_backends(),
        devices=_devices(),
        can_offload=has_gpu(),
        cpu_features=cpu_features(system_info),
        variants=tuple(sorted(_variant(str(path)) for path in _LIBRARIES.glob("*ggml-cpu-*"))),
        variant=_variant(taken) if taken is not None else None,
        not_loaded=_not_loaded(),
        cuda_runtime=_cuda_runtime(),
    )
    return msgspec.to_builtins(found)


def _variant(path: str) -> str:
    return Path(path).stem.partition("ggml-cpu-")[2]


def _function(name: str, result: Any, *arguments: Any) -> Any:
    # Made anew: the types of a function that others use, too, aren't ours to set.
    return ctypes.CFUNCTYPE(result, *arguments)((name, ggml))


def _text(value: bytes | None) -> str:
    return value.decode("utf-8", "replace") if value is not None else ""


if __name__ == "__main__":
    run_job(_look)
