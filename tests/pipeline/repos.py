"""The default model, brought back from its GGUF file to the form that hubs have.

Its weights are as good as the Q4_1 file that they come from, rounded to F16: converted and quantized to Q4_1 again,
each tensor has the same bytes as in that file, which a test checks.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, dequantize
from safetensors.numpy import save_file

# By the GGUF file's names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hub_format(gguf: Path, cache: Path) -> Path:
    """The folder of the repository; made once. ``gguf`` must hold a Llama model with a byte-level BPE vocabulary."""
    folder = cache / f"{gguf.parent.parent.name}-{gguf.parent.name}-hub"
    if folder.exists():
        return folder
    part = cache / f"{folder.name}.{os.getpid()}.part"
    part.mkdir(parents=True)
    reader = GGUFReader(gguf)
    _write_weights(reader, part / "model.safetensors")
    for name, content in _configs(reader).items():
        (part / name).write_text(
            content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=1)
        )
    try:
        part.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(part)
    return folder


def _value(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    assert field is not None, key
    return field.contents()


def _write_weights(reader: GGUFReader, path: Path) -> None:
    n_head = {
        "attn_q": _value(reader, "llama.attention.head_count"),
        "attn_k": _value(reader, "llama.attention.head_count_kv"),
    }
    weights = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float16)
        name = tensor.name.removesuffix(".weight")
        prefix = ""
        if name.startswith("blk."):
            _, number, name = name.split(".")
            prefix = f"model.layers.{number}."
        if name in n_head:
            values = _interleaved_to_halves(values, n_head[name])
        weights[f"{prefix}{_TENSORS[name]}.weight"] = np.ascontiguousarray(values)
    save_file(weights, path, metadata={"format": "pt"})


def _interleaved_to_halves(weights: np.ndarray[Any, Any], n_head: int) -> np.ndarray[Any, Any]:
    """Undoes how llama.cpp's converter reorders the rows of rotated projections (conversion/llama.py, ``permute``)."""
    n_rows, n_columns = weights.shape
    return weights.reshape(n_head, n_rows // n_head // 2, 2, n_columns).swapaxes(1, 2).reshape(n_rows, n_columns)


def _configs(reader: GGUFReader) -> dict[str, Any]:
    tokens, types = _value(reader, "tokenizer.ggml.tokens"), _value(reader, "tokenizer.ggml.token_type")
    special = [number for number, kind in enumerate(types) if kind == 3]
    bos, eos = _value(reader, "tokenizer.ggml.bos_token_id"), _value(reader, "tokenizer.ggml.eos_token_id")
    n_ctx = _value(reader, "llama.context_length")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": _value(reader, "llama.embedding_length"),
        "intermediate_size": _value(reader, "llama.feed_forward_length"),
        "num_hidden_layers": _value(reader, "llama.block_count"),
        "num_attention_heads": _value(reader, "llama.attention.head_count"),
        "num_key_value_heads": _value(reader, "llama.attention.head_count_kv"),
        "rms_norm_eps": 1e-5,
        "rope_theta": int(_value(reader, "llama.rope.freq_base")),
        "max_position_embeddings": n_ctx,
        "vocab_size": len(tokens),
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "bos_token_id": bos,
        "eos_token_id": eos,
        "torch_dtype": "float16",
    }
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": tokens[number], "special": True}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            for number in special
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": _value(reader, "tokenizer.ggml.merges"),
        },
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[bos],
        "eos_token": tokens[eos],
        "pad_token": tokens[eos],
        "unk_token": "<|endoftext|>",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": n_ctx,
    }
    return {
        "config.json": config,
        "generation_config.json": {"bos_token_id": bos, "eos_token_id": eos, "temperature": 0.6, "top_p": 0.9},
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": tokenizer_config,
        "chat_template.jinja": _value(reader, "tokenizer.chat_template"),
        "LICENSE": (Path(__file__).parents[2] / "LICENSE").read_text(),
    }
