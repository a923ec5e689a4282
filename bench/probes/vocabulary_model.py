"""``python -m bench.probes.vocabulary_model VOCABULARY TARGET``: writes a small random-weight model over a tokenizer.

It shows what a large vocabulary costs, without a large model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter

ARCHITECTURE = "llama"
N_EMBD = 64
N_HEAD = 2
N_FF = 128
N_CTX_TRAIN = 2048
# Wide enough that the logits differ about as much as a trained model's.
_OUTPUT_SCALE = 0.25


def copy_tokenizer(reader: GGUFReader, writer: GGUFWriter) -> None:
    """The file that is written has the tokenizer of the one that is read."""
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            kind = field.types[0]
            item = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type=item)


def write_model(vocabulary: Path, target: Path) -> int:
    """Writes a model with one layer over the tokenizer in ``vocabulary``; returns its vocabulary's size."""
    reader = GGUFReader(vocabulary)
    writer = GGUFWriter(target, ARCHITECTURE)
    writer.add_context_length(N_CTX_TRAIN)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(1)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(N_EMBD // N_HEAD)
    copy_tokenizer(reader, writer)
    n_vocab = len(reader.fields["tokenizer.ggml.tokens"].contents())
    draw = np.random.default_rng(seed=1)
    shapes = {
        "token_embd.weight": (n_vocab, N_EMBD),
        "blk.0.attn_q.weight": (N_EMBD, N_EMBD),
        "blk.0.attn_k.weight": (N_EMBD, N_EMBD),
        "blk.0.attn_v.weight": (N_EMBD, N_EMBD),
        "blk.0.attn_output.weight": (N_EMBD, N_EMBD),
        "blk.0.ffn_gate.weight": (N_FF, N_EMBD),
        "blk.0.ffn_up.weight": (N_FF, N_EMBD),
        "blk.0.ffn_down.weight": (N_EMBD, N_FF),
        "output.weight": (n_vocab, N_EMBD),
    }
    for name, shape in shapes.items():
        writer.add_tensor(name, (draw.standard_normal(shape, np.float32) * _OUTPUT_SCALE).astype(np.float16))
    for name in ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"):
        writer.add_tensor(name, np.ones(N_EMBD, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return n_vocab


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"n_vocab": write_model(Path(sys.argv[1]), Path(sys.argv[2]))}))
