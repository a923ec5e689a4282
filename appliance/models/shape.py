"""Reads from a GGUF header what decides how much memory the model takes, as llama.cpp would (llama-model.cpp).

Where an architecture's code decides what the header doesn't say, the numbers here are upper bounds: sliding windows
count as whole contexts, which is also what llama.cpp allocates unless told otherwise, and layers that only predict
further tokens count although they aren't loaded.
"""

from __future__ import annotations

import re
from array import array

from appliance.errors import ConfigError
from appliance.hardware.shape import LayerShape, ModelShape
from appliance.models.gguf_file import GGUFFile, TensorInfo

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
# Far above every model's widths; products of three of them still fit into 64 bits.
MAX_WIDTH = 1 << 20
MAX_CONTEXT = 1 << 31
MAX_VOCAB = 1 << 26
_LAYER = re.compile(r"(?:enc\.|dec\.)?blk\.(\d{1,9})\.")
# llama.cpp's LLM_TENSOR_LAYER_INPUT: never on a GPU.
_INPUT = ("token_embd", "token_types", "position_embd", "per_layer_token_embd")
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_STATE = re.compile(r"\.(ssm_|shortconv|time_mix)")
_INTEGERS = "bBhHiIlLqQ"


def shape_of(file: GGUFFile) -> ModelShape:
    """Raises ConfigError if a number in the header is no number, or can't be one of a model."""
    header = _Header(file)
    n_layers = header.number("block_count", at_most=MAX_LAYERS) or _layers_with_tensors(file)
    groups: list[list[TensorInfo]] = [[] for _ in range(n_layers)]
    inputs: list[TensorInfo] = []
    outputs: list[TensorInfo] = []
    for tensor in file.tensors:
        number = _layer(tensor)
        if number is not None and number < n_layers:
            groups[number].append(tensor)
        else:
            (inputs if tensor.name.startswith(_INPUT) else outputs).append(tensor)
    embedding = next((tensor for tensor in inputs if tensor.name == _EMBEDDING), None)
    tied = [embedding] if embedding is not None and all(tensor.name != _OUTPUT for tensor in outputs) else []
    head = outputs + tied
    n_embd = header.number("embedding_length")
    heads = header.per_layer("attention.head_count", n_layers, 0)
    return ModelShape(
        architecture=header.architecture,
        layers=_layers(header, groups, heads, n_embd),
        input_bytes=_size(inputs),
        output_bytes=_size(head),
        output_matrices=_by_type(head),
        tied_bytes=_size(tied),
        n_vocab=header.checked(_EMBEDDING, embedding.shape[-1], MAX_VOCAB) if embedding and embedding.shape else 0,
        n_embd=n_embd,
        n_ff=max(header.widest("feed_forward_length", n_layers), 2 * header.number("ssm.inner_size")),
        n_head=max(heads, default=0),
        n_attention=max((n_head * header.head_width("key", n_embd, n_head) for n_head in heads), default=0),
        n_expert_used=header.widest("expert_used_count", n_layers),
        n_ff_expert=header.widest("expert_feed_forward_length", n_layers),
        n_ctx_train=header.number("context_length", at_most=MAX_CONTEXT),
        n_swa=header.number("attention.sliding_window", at_most=MAX_CONTEXT),
        file_bytes=max((tensor.offset + tensor.n_bytes for tensor in file.tensors), default=0),
    )


class _Header:
    """The architecture's own numbers, checked."""

    def __init__(self, file: GGUFFile) -> None:
        architecture = file.metadata.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise ConfigError("the model's header has no general.architecture")
        self.architecture = architecture
        self._metadata = file.metadata

    def has(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self._metadata

    def number(self, key: str, *, at_most: int = MAX_WIDTH) -> int:
        """0 if there is none."""
        value = self._metadata.get(f"{self.architecture}.{key}", 0)
        return self.checked(key, value, at_most)

    def per_layer(self, key: str, n_layers: int, default: int) -> list[int]:
        """One number for each layer; the header has one for all, or an array."""
        value = self._metadata.get(f"{self.architecture}.{key}", default)
        if not isinstance(value, array):
            return [self.checked(key, value, MAX_WIDTH)] * n_layers
        if value.typecode not in _INTEGERS or len(value) < n_layers:
            raise ConfigError(
                f"{self.architecture}.{key} in the model's header has {len(value)} numbers of the type "
                f"{value.typecode}; want {n_layers} integers"
            )
        return [self.checked(key, number, MAX_WIDTH) for number in value[:n_layers]]

    def widest(self, key: str, n_layers: int) -> int:
        return max(self.per_layer(key, n_layers, 0), default=0)

    def head_width(self, kind: str, n_embd: int, n_head: int) -> int:
        """Elements of one head's ``key`` or ``value``, the widest where layers differ."""
        usual = n_embd // n_head if n_head else 0
        name = f"attention.{kind}_length"
        return max(self.number(name) if self.has(name) else usual, self.number(f"{name}_swa"))

    def checked(self, key: str, value: object, at_most: int) -> int:
        """The value as a number. Raises ConfigError if it is none from 0 to ``at_most``."""
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= at_most:
            shown = f"{value}" if isinstance(value, int | float) else type(value).__name__
            raise ConfigError(
                f"{self.architecture}.{key} in the model's header is {shown}; want a number from 0 to {at_most}"
            )
        return value


def _layers(header: _Header, groups: list[list[TensorInfo]], heads: list[int], n_embd: int) -> tuple[LayerShape, ...]:
    n_layers = len(groups)
    # Without the key, each head has keys and values of its own.
    kv_heads = header.per_layer("attention.head_count_kv", n_layers, 0)
    if not header.has("attention.head_count_kv"):
        kv_heads = heads
    # Multi-head latent attention caches no values; an indexer's keys, where there is one, take less than they would.
    is_latent = header.has("attention.key_length_mla") and not header.has("attention.indexer.head_count")
    n_cached = n_layers - header.number("nextn_predict_layers") - header.number("attention.shared_kv_layers")
    windows = header.per_layer("attention.sliding_window_pattern", n_layers, 0)
    n_state = _state_width(header, n_embd, max(heads, default=0))
    layers = []
    for number, group in enumerate(groups):
        is_recurrent = n_state > 0 and (not any(heads) or any(_STATE.search(tensor.name) for tensor in group))
        has_keys = not is_recurrent or any(".attn_k." in tensor.name for tensor in group)
        n_cache_heads = kv_heads[number] if has_keys and number < n_cached else 0
        experts = [tensor for tensor in group if "_exps." in tensor.name]
        rest = [tensor for tensor in group if "_exps." not in tensor.name]
        layers.append(
            LayerShape(
                n_bytes=_size(group),
                n_expert_bytes=_size(experts),
                matrices=_by_type(rest),
                expert_matrices=_by_type(experts),
                n_k=n_cache_heads * header.head_width("key", n_embd, heads[number]),
                n_v=0 if is_latent else n_cache_heads * header.head_width("value", n_embd, heads[number]),
                n_state=n_state if is_recurrent else 0,
                is_swa=header.number("attention.sliding_window", at_most=MAX_CONTEXT) > 0 and windows[number] != 0,
            )
        )
    return tuple(layers)


def _state_width(header: _Header, n_embd: int, n_head: int) -> int:
    """Elements of a sequence's state in a recurrent layer: the most that the header could mean (llama-hparams.cpp)."""
    kernel, inner = header.number("ssm.conv_kernel"), header.number("ssm.inner_size")
    state, n_groups = header.number("ssm.state_size"), header.number("ssm.group_count")
    kda, wkv = header.number("kda.head_dim"), header.number("wkv.head_size")
    return max(
        max(kernel - 1, 0) * (inner + 2 * n_groups * state) + state * inner,
        (3 * max(kernel - 1, 3) * kda + kda * kda) * n_head,
        (2 + wkv) * n_embd if wkv else 0,
        n_embd * max(header.number("shortconv.l_cache") - 1, 0),
    )


def _layer(tensor: TensorInfo) -> int | None:
    match = _LAYER.match(tensor.name)
    return int(match[1]) if match else None


def _layers_with_tensors(file: GGUFFile) -> int:
    numbers = [number for tensor in file.tensors if (number := _layer(tensor)) is not None and number < MAX_LAYERS]
    return max(numbers, default=-1) + 1


def _size(tensors: list[TensorInfo]) -> int:
    return sum(tensor.n_bytes for tensor in tensors)


def _by_type(tensors: list[TensorInfo]) -> dict[str, int]:
    found: dict[str, int] = {}
    for tensor in tensors:
        if len(tensor.shape) > 1 and tensor.shape[1] % 4 == 0 and tensor.name.endswith(".weight"):
            found[tensor.type_name] = found.get(tensor.type_name, 0) + tensor.n_bytes
    return found
