"""Loads llama.cpp's shared libraries and gives access to its C API as ``lib``.

``llama_cpp``'s package module also imports its high-level classes and what those need (0.4 s); only the
ctypes binding in ``llama_cpp.llama_cpp`` is wanted here, so the package is entered without running its module.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import sys
import types
from pathlib import Path
from typing import Any

log = logging.getLogger("appliance.llama")

# ggml_log_level in ggml.h.
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
_CONTINUED = 5
# Said for each tensor of an adapter: as it must be where the CPU keeps the model's weights in an order of its own.
_USUAL = "cannot use buft"
_CPU = 0  # GGML_BACKEND_DEVICE_TYPE_CPU in ggml-backend.h


def _load() -> tuple[Any, Any]:
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("llama-cpp-python is not installed; `make venv` builds and installs it")
    if "llama_cpp" not in sys.modules:
        package = types.ModuleType("llama_cpp")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["llama_cpp"] = package
    # libggml first: libllama then shares it by its soname. The wheel holds that library under two names, and in
    # the other order the linker would load both, each with its own registry of devices.
    from llama_cpp import _ggml  # isort: skip
    import llama_cpp.llama_cpp as binding  # isort: skip

    return binding, _ggml.libggml


lib, ggml = _load()

# Where a portable wheel has its CPU variants: site-packages/bin.
_VARIANTS = Path(lib.__file__).parent.parent / "bin"


@lib.llama_log_callback  # type: ignore[untyped-decorator]
def _forward_log(level: int, text: bytes, user_data: object) -> None:
    if level == _CONTINUED:
        return
    message = text.decode("utf-8", "replace").strip()
    if message:
        log.log(logging.DEBUG if _USUAL in message else _LEVELS.get(level, logging.DEBUG), "%s", message)


def start() -> None:
    """Starts the backends. In a portable build each is a library of its own, and the best for this CPU is taken."""
    lib.llama_log_set(_forward_log, None)
    if any(_VARIANTS.glob("*ggml-cpu-*")):
        ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
        ggml.ggml_backend_load_all_from_path(str(_VARIANTS).encode())
    lib.llama_backend_init()


def device() -> str:
    """Where a model computes, in words: the GPUs' names, or the CPU's."""
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    names: dict[int, list[str]] = {}
    for number in range(ggml.ggml_backend_dev_count()):
        handle = ggml.ggml_backend_dev_get(number)
        ggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
        ggml.ggml_backend_dev_description.argtypes = [ctypes.c_void_p]
        ggml.ggml_backend_dev_description.restype = ctypes.c_char_p
        kind = ggml.ggml_backend_dev_type(handle)
        names.setdefault(kind, []).append(ggml.ggml_backend_dev_description(handle).decode("utf-8", "replace"))
    found = [name for kind, group in names.items() if kind != _CPU for name in group] or names.get(_CPU, [])
    return ", ".join(found) or "no device"


def cpu_function(name: str, restype: Any, argtypes: list[Any]) -> Any:
    """A function of the CPU backend. In a portable build it stands in a library that was chosen at the start."""
    ggml.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_backend_reg.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_backend_reg.argtypes = [ctypes.c_void_p]
    ggml.ggml_backend_reg_get_proc_address.restype = ctypes.c_void_p
    ggml.ggml_backend_reg_get_proc_address.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    registry = ggml.ggml_backend_dev_backend_reg(ggml.ggml_backend_dev_by_type(_CPU))
    address = ggml.ggml_backend_reg_get_proc_address(registry, name.encode())
    if not address:
        raise ImportError(f"this build of llama.cpp has no {name}")
    return ctypes.CFUNCTYPE(restype, *argtypes)(address)


def has_gpu() -> bool:
    return bool(lib.llama_supports_gpu_offload())
