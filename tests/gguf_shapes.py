"""GGUF files of any size that take no room: a header, and tensors that are holes in the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType


def write_sparse(
    path: Path,
    *,
    arch: str = "llama",
    n_layer: int = 2,
    n_embd: int = 64,
    n_ff: int = 256,
    n_head: int = 4,
    n_head_kv: int = 4,
    head_dim: int | None = None,
    n_vocab: int = 512,
    n_ctx_train: int = 4096,
    n_expert: int = 0,
    n_expert_used: int = 2,
    n_ff_expert: int = 0,
    is_tied: bool = False,
    matrix_type: str = "Q8_0",
) -> Path:
    """A model of the llama, qwen2, qwen3 or qwen3moe architecture that llama.cpp accepts; all its weights are zero."""
    head_dim = head_dim or n_embd // n_head
    writer = GGUFWriter(path, arch)
    writer.add_block_count(n_layer)
    writer.add_context_length(n_ctx_train)
    writer.add_embedding_length(n_embd)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head_kv)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(n_vocab)
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    writer.add_tokenizer_model("none")
    if n_expert:
        writer.add_expert_count(n_expert)
        writer.add_expert_used_count(n_expert_used)
        writer.add_expert_feed_forward_length(n_ff_expert or n_ff)

    def tensor(name: str, *shape: int, type_name: str = matrix_type) -> None:
        """``shape`` as in the file: columns first."""
        kind = GGMLQuantizationType[type_name if len(shape) > 1 else "F32"]
        block, block_bytes = GGML_QUANT_SIZES[kind]
        n_elements = int(np.prod(shape, dtype=np.int64))
        sizes = tuple(reversed(shape))
        if block > 1:  # the writer wants the shape in bytes
            sizes = (*sizes[:-1], sizes[-1] // block * block_bytes)
        dtype = np.dtype(np.uint8 if block > 1 else np.float16 if kind.name == "F16" else np.float32)
        writer.add_tensor_info(name, sizes, dtype, n_elements // block * block_bytes, raw_dtype=kind)

    tensor("token_embd.weight", n_embd, n_vocab)
    for number in range(n_layer):
        at = f"blk.{number}"
        tensor(f"{at}.attn_norm.weight", n_embd)
        tensor(f"{at}.attn_q.weight", n_embd, n_head * head_dim)
        tensor(f"{at}.attn_k.weight", n_embd, n_head_kv * head_dim)
        tensor(f"{at}.attn_v.weight", n_embd, n_head_kv * head_dim)
        tensor(f"{at}.attn_output.weight", n_head * head_dim, n_embd)
        if arch == "qwen2":
            tensor(f"{at}.attn_q.bias", n_head * head_dim)
            tensor(f"{at}.attn_k.bias", n_head_kv * head_dim)
            tensor(f"{at}.attn_v.bias", n_head_kv * head_dim)
        if arch.startswith("qwen3"):
            tensor(f"{at}.attn_q_norm.weight", head_dim)
            tensor(f"{at}.attn_k_norm.weight", head_dim)
        tensor(f"{at}.ffn_norm.weight", n_embd)
        if n_expert:
            width = n_ff_expert or n_ff
            tensor(f"{at}.ffn_gate_inp.weight", n_embd, n_expert, type_name="F32")
            tensor(f"{at}.ffn_gate_exps.weight", n_embd, width, n_expert)
            tensor(f"{at}.ffn_up_exps.weight", n_embd, width, n_expert)
            tensor(f"{at}.ffn_down_exps.weight", width, n_embd, n_expert)
        else:
            tensor(f"{at}.ffn_gate.weight", n_embd, n_ff)
            tensor(f"{at}.ffn_up.weight", n_embd, n_ff)
            tensor(f"{at}.ffn_down.weight", n_ff, n_embd)
    tensor("output_norm.weight", n_embd)
    if not is_tied:
        tensor("output.weight", n_embd, n_vocab)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    n_bytes = sum(-(-info.nbytes // 32) * 32 for group in writer.tensors for info in group.values())
    with path.open("r+b") as file:
        end = -(-path.stat().st_size // 32) * 32
        file.truncate(end + n_bytes)
    return path
