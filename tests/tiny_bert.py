"""A BERT of any size with random weights, over a WordPiece vocabulary of a few words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter, LlamaFileType, PoolingType, TokenType

WORDS = "the sea is calm and a boat lies in harbour while wind moves over hills red green blue one two three".split()
# What a vocabulary of this kind begins with.
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# A word's beginning is marked, as the converter does it.
TOKENS = (*_SPECIAL, *(f"▁{word}" for word in WORDS), *"abcdefghijklmnopqrstuvwxyz")
CLS, SEP = 2, 3


def write_bert(
    path: Path,
    *,
    n_layer: int = 2,
    n_embd: int = 64,
    n_head: int = 4,
    n_ff: int = 256,
    n_ctx_train: int = 64,
    n_vocab: int = 0,
    pooling: PoolingType = PoolingType.MEAN,
    seed: int = 1,
) -> Path:
    """``n_vocab`` 0: the words that there are; more are filled up with ones that nobody says."""
    tokens = [*TOKENS, *(f"▁unused{number}" for number in range(n_vocab - len(TOKENS)))]
    writer = GGUFWriter(path, "bert")
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_block_count(n_layer)
    writer.add_context_length(n_ctx_train)
    writer.add_embedding_length(n_embd)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * len(_SPECIAL) + [TokenType.NORMAL] * (len(tokens) - len(_SPECIAL)))
    writer.add_token_type_count(2)
    writer.add_bos_token_id(CLS)
    writer.add_eos_token_id(SEP)
    writer.add_sep_token_id(SEP)
    writer.add_unk_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_mask_token_id(4)
    draw = np.random.default_rng(seed)

    def matrix(name: str, n_rows: int, n_columns: int, kind: type[np.floating[Any]] = np.float16) -> None:
        values = draw.standard_normal((n_rows, n_columns), dtype=np.float32) / np.sqrt(n_columns)
        writer.add_tensor(name, values.astype(kind))

    def vector(name: str, n: int, value: float) -> None:
        writer.add_tensor(name, np.full(n, value, np.float32))

    matrix("token_embd.weight", len(tokens), n_embd)
    matrix("token_types.weight", 2, n_embd, np.float32)
    matrix("position_embd.weight", n_ctx_train, n_embd, np.float32)
    vector("token_embd_norm.weight", n_embd, 1.0)
    vector("token_embd_norm.bias", n_embd, 0.0)
    for number in range(n_layer):
        at = f"blk.{number}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"{at}.{name}.weight", n_embd, n_embd)
            vector(f"{at}.{name}.bias", n_embd, 0.0)
        matrix(f"{at}.ffn_up.weight", n_ff, n_embd)
        vector(f"{at}.ffn_up.bias", n_ff, 0.0)
        matrix(f"{at}.ffn_down.weight", n_embd, n_ff)
        vector(f"{at}.ffn_down.bias", n_embd, 0.0)
        for name in ("attn_output_norm", "layer_output_norm"):
            vector(f"{at}.{name}.weight", n_embd, 1.0)
            vector(f"{at}.{name}.bias", n_embd, 0.0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
