"""LoRA adapters of a model: what they add to its weights, computed beside them."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from appliance.engine.llama.library import lib
from appliance.engine.llama.load_log import LoadLog
from appliance.engine.llama.model import Model
from appliance.engine.messages import AdapterConfig
from appliance.errors import EngineFailed
from appliance.files import sha256_of


class Adapter:
    """A ``llama_adapter_lora``, which llama.cpp frees with its model."""

    def __init__(self, model: Model, config: AdapterConfig) -> None:
        """All of a model's are loaded before its first context, whose graphs have to have room for them.

        Raises:
            EngineFailed: it can't be loaded, is another model's, or is of a kind that isn't supported.
            EngineOutOfMemory: there is no memory for it.
        """
        self.scale = config.scale
        self.file_bytes = _checked(config)
        with LoadLog() as log:
            self.handle: Any = lib.llama_adapter_lora_init(model.handle, config.path.encode())
        if not self.handle:
            raise log.error(f"the adapter {config.name} can't be loaded from {config.path}")
        self.buffers = log.buffers
        if lib.llama_adapter_get_alora_n_invocation_tokens(self.handle):
            raise EngineFailed(
                f"the adapter {config.name} is an activated LoRA, which begins in the middle of a prompt; "
                "that is not supported"
            )

    def put_on(self, context: Any) -> None:
        """The context computes with this adapter and no other from now on; what it has computed stays as it was."""
        adapters = (lib.llama_adapter_lora_p_ctypes * 1)(self.handle)
        lib.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(self.scale))


def _checked(config: AdapterConfig) -> int:
    """The file's size. Raises EngineFailed if it isn't there, or isn't the one that was pinned."""
    path = Path(config.path)
    try:
        digest = sha256_of(path)
        n_bytes = path.stat().st_size
    except OSError as error:
        raise EngineFailed(f"the adapter {config.name} can't be loaded: {path}: {error.strerror}") from None
    if digest != config.sha256:
        raise EngineFailed(
            f"the adapter {config.name} can't be loaded: {path} has sha256 {digest}, models.lock says "
            f"{config.sha256}; delete it and build the model again"
        )
    return n_bytes
