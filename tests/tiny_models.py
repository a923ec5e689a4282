"""Whole models with random weights, small enough to be written and loaded in a test: one of each kind of memory.

Their vocabulary is the bytes, behind three control tokens: what a text's tokens are needs no knowledge of the model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter, LlamaFileType, PoolingType, TokenType

from appliance.engine.messages import EngineConfig

SPACE = 3 + 256  # SentencePiece has a character of its own for it
N_VOCAB = SPACE + 1
WINDOW = 48  # of the sliding one, in tokens
N_EMBD, N_FF, N_HEAD, N_HEAD_KV, HEAD_DIM = 64, 128, 4, 2, 16
D_INNER, D_STATE, D_CONV, DT_RANK = 2 * N_EMBD, 8, 4, 8
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)

Tensors = Callable[..., None]


def tokens_of(text: str) -> list[int]:
    """As the model's own vocabulary has them."""
    return [SPACE if byte == ord(" ") else 3 + byte for byte in text.encode()]


def write_model(
    path: Path,
    kind: str,
    *,
    n_layer: int = 4,
    n_ctx_train: int = 4096,
    seed: int = 0,
    pooling: PoolingType = PoolingType.NONE,
) -> Path:
    """``kind``: llama, sliding (gemma2), recurrent (mamba) or hybrid (jamba).

    The same ``seed`` gives the same bytes. With ``pooling`` it embeds texts.
    """
    arch, layer_writer = _KINDS[kind]
    writer = GGUFWriter(path, arch)
    writer.add_block_count(n_layer)
    writer.add_context_length(n_ctx_train)
    writer.add_embedding_length(N_EMBD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(LlamaFileType.ALL_F32)
    if pooling != PoolingType.NONE:
        writer.add_pooling_type(pooling)
    _add_vocabulary(writer)
    if kind == "recurrent":
        writer.add_feed_forward_length(0)
        writer.add_head_count(0)
    else:
        writer.add_feed_forward_length(N_FF)
        writer.add_head_count(N_HEAD)
        writer.add_head_count_kv(N_HEAD_KV if kind != "hybrid" else [N_HEAD_KV * (n % 2) for n in range(n_layer)])
    if kind in ("llama", "sliding"):
        writer.add_key_length(HEAD_DIM)
        writer.add_value_length(HEAD_DIM)
        writer.add_rope_dimension_count(HEAD_DIM)
    if kind == "sliding":
        writer.add_sliding_window(WINDOW)
        writer.add_attn_logit_softcapping(50.0)
        writer.add_final_logit_softcapping(30.0)
    if kind in ("recurrent", "hybrid"):
        writer.add_ssm_conv_kernel(D_CONV)
        writer.add_ssm_inner_size(D_INNER)
        writer.add_ssm_state_size(D_STATE)
        writer.add_ssm_time_step_rank(DT_RANK)

    random = np.random.default_rng(seed)

    def tensor(name: str, *shape: int, scale: float | None = None, mean: float = 0.0) -> None:
        """Normally distributed; ``shape`` as numpy has it: rows first. Outputs are as large as inputs by default."""
        deviation = shape[-1] ** -0.5 if scale is None else scale
        writer.add_tensor(name, (mean + deviation * random.standard_normal(shape)).astype(np.float32))

    tensor("token_embd.weight", N_VOCAB, N_EMBD, scale=1.0)
    for number in range(n_layer):
        layer_writer(functools.partial(_in_layer, tensor, number), number)
    tensor("output_norm.weight", N_EMBD, scale=0.1, mean=1.0)
    if kind != "sliding":  # gemma2's output is its embeddings
        tensor("output.weight", N_VOCAB, N_EMBD, scale=1.0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def engine_config(path: Path, **fields: Any) -> EngineConfig:
    """To load one on one thread."""
    defaults: dict[str, Any] = {
        "model_path": str(path),
        "tensor_types": ("F32",),
        "longest_token_bytes": 1,
        "n_ctx": 4096,
        "n_batch": 256,
        "prompt_step_s": 0.25,
        "stream_interval_s": 0.0,
        "n_threads": 1,
        "n_threads_batch": 1,
        "poll": 0,
        "n_gpu_layers": 0,
        "max_running": 8,
        "prefix_reuse": True,
    }
    return EngineConfig(**(defaults | fields))


def _add_vocabulary(writer: GGUFWriter) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"])
    writer.add_token_scores([0.0] * N_VOCAB)
    writer.add_token_types([TokenType.UNKNOWN, *[TokenType.CONTROL] * 2, *[TokenType.BYTE] * 256, TokenType.NORMAL])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)


def _in_layer(tensor: Tensors, number: int, name: str, *shape: int, **how: float) -> None:
    tensor(f"blk.{number}.{name}", *shape, **how)


def _norm(tensor: Tensors, name: str, size: int = N_EMBD) -> None:
    tensor(f"{name}.weight", size, scale=0.1, mean=1.0)


def _attention(tensor: Tensors) -> None:
    # Sharp, or it averages all it sees and says the same everywhere.
    tensor("attn_q.weight", N_HEAD * HEAD_DIM, N_EMBD, scale=0.5)
    tensor("attn_k.weight", N_HEAD_KV * HEAD_DIM, N_EMBD)
    tensor("attn_v.weight", N_HEAD_KV * HEAD_DIM, N_EMBD)
    # Not loud: llama.cpp's attention computes in F16.
    tensor("attn_output.weight", N_EMBD, N_HEAD * HEAD_DIM)


def _network(tensor: Tensors) -> None:
    _norm(tensor, "ffn_norm")
    tensor("ffn_gate.weight", N_FF, N_EMBD)
    tensor("ffn_up.weight", N_FF, N_EMBD)
    tensor("ffn_down.weight", N_EMBD, N_FF)


def _mamba(tensor: Tensors) -> None:
    tensor("ssm_in.weight", 2 * D_INNER, N_EMBD)
    tensor("ssm_conv1d.weight", D_INNER, D_CONV)
    tensor("ssm_conv1d.bias", D_INNER, scale=0.1)
    tensor("ssm_x.weight", DT_RANK + 2 * D_STATE, D_INNER)
    tensor("ssm_dt.weight", D_INNER, DT_RANK)
    tensor("ssm_dt.bias", D_INNER, scale=0.5)
    # Small, or the state forgets within a few tokens; below 0 as it must be, or it grows without end.
    tensor("ssm_a", D_INNER, D_STATE, scale=0.002, mean=-0.02)
    tensor("ssm_d", D_INNER, scale=0.5)
    tensor("ssm_out.weight", N_EMBD, D_INNER)


def _llama_layer(tensor: Tensors, number: int) -> None:
    _norm(tensor, "attn_norm")
    _attention(tensor)
    _network(tensor)


def _sliding_layer(tensor: Tensors, number: int) -> None:
    _llama_layer(tensor, number)
    # Louder than the embeddings, which are the output, too: else each token would be followed by itself.
    tensor("post_attention_norm.weight", N_EMBD, scale=0.5, mean=2.5)
    tensor("post_ffw_norm.weight", N_EMBD, scale=1.0, mean=8.0)


def _recurrent_layer(tensor: Tensors, number: int) -> None:
    _norm(tensor, "attn_norm")
    _mamba(tensor)


def _hybrid_layer(tensor: Tensors, number: int) -> None:
    _norm(tensor, "attn_norm")
    if number % 2:
        _attention(tensor)
    else:
        _mamba(tensor)
        _norm(tensor, "ssm_dt_norm", DT_RANK)
        _norm(tensor, "ssm_b_norm", D_STATE)
        _norm(tensor, "ssm_c_norm", D_STATE)
    _network(tensor)


_KINDS: dict[str, tuple[str, Callable[[Tensors, int], None]]] = {
    "llama": ("llama", _llama_layer),
    "sliding": ("gemma2", _sliding_layer),
    "recurrent": ("mamba", _recurrent_layer),
    "hybrid": ("jamba", _hybrid_layer),
}
