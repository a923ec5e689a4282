"""``python -m bench.probes.embedding_model VOCABULARY TARGET``: writes a random-weight encoder over a tokenizer.

It has the size of all-MiniLM-L6-v2, in F16: what it costs to embed a text doesn't depend on the weights.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter, LlamaFileType, PoolingType

from bench.probes.vocabulary_model import copy_tokenizer

N_LAYER = 6
N_EMBD = 384
N_HEAD = 12
N_FF = 1536
N_CTX_TRAIN = 512


def write_model(vocabulary: Path, target: Path) -> int:
    """Writes the model; returns its vocabulary's size."""
    reader = GGUFReader(vocabulary)
    writer = GGUFWriter(target, "bert")
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_block_count(N_LAYER)
    writer.add_context_length(N_CTX_TRAIN)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.MEAN)
    copy_tokenizer(reader, writer)
    n_vocab = len(reader.fields["tokenizer.ggml.tokens"].contents())
    draw = np.random.default_rng(seed=1)

    def matrix(name: str, n_rows: int, n_columns: int, kind: type = np.float16) -> None:
        values = draw.standard_normal((n_rows, n_columns), np.float32) / np.sqrt(n_columns)
        writer.add_tensor(f"{name}.weight", values.astype(kind))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(N_EMBD, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(N_EMBD, np.float32))

    matrix("token_embd", n_vocab, N_EMBD)
    matrix("token_types", 2, N_EMBD, np.float32)
    matrix("position_embd", N_CTX_TRAIN, N_EMBD, np.float32)
    norm("token_embd_norm")
    for number in range(N_LAYER):
        at = f"blk.{number}"
        shapes = {name: (N_EMBD, N_EMBD) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        for name, (n_rows, n_columns) in {**shapes, "ffn_up": (N_FF, N_EMBD), "ffn_down": (N_EMBD, N_FF)}.items():
            matrix(f"{at}.{name}", n_rows, n_columns)
            writer.add_tensor(f"{at}.{name}.bias", np.zeros(n_rows, np.float32))
        norm(f"{at}.attn_output_norm")
        norm(f"{at}.layer_output_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return n_vocab


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"n_vocab": write_model(Path(sys.argv[1]), Path(sys.argv[2]))}))
