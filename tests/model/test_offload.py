"""Where a model's tensors go: with experts, of random weights, made here."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from appliance.engine.llama import library
from appliance.engine.llama.model import Model
from appliance.errors import EngineFailed

N_LAYERS, N_EMBD, N_FF, N_EXPERTS = 12, 32, 64, 4
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
TOKEN_TYPES = [2, 3, 3, *[6] * 256, 1]  # unknown, control, byte and normal, as llama.h counts them


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("moe") / "experts.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYERS)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(N_EMBD // 2)
    writer.add_expert_count(N_EXPERTS)
    writer.add_expert_used_count(2)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * len(TOKENS))
    writer.add_token_types(TOKEN_TYPES)
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (len(TOKENS), N_EMBD), "output_norm": (N_EMBD,)}
    for layer in range(N_LAYERS):
        shapes |= {
            f"blk.{layer}.attn_norm": (N_EMBD,),
            f"blk.{layer}.attn_q": (N_EMBD, N_EMBD),
            f"blk.{layer}.attn_k": (N_EMBD, N_EMBD),
            f"blk.{layer}.attn_v": (N_EMBD, N_EMBD),
            f"blk.{layer}.attn_output": (N_EMBD, N_EMBD),
            f"blk.{layer}.ffn_norm": (N_EMBD,),
            f"blk.{layer}.ffn_gate_inp": (N_EXPERTS, N_EMBD),
            f"blk.{layer}.ffn_gate_exps": (N_EXPERTS, N_FF, N_EMBD),
            f"blk.{layer}.ffn_down_exps": (N_EXPERTS, N_EMBD, N_FF),
            f"blk.{layer}.ffn_up_exps": (N_EXPERTS, N_FF, N_EMBD),
        }
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.standard_normal(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def overridden(caplog: pytest.LogCaptureFixture, path: Path, *, n_cpu_moe: int) -> set[str]:
    """The tensors that are loaded into RAM although their layer may be on a GPU."""
    library.start()
    with caplog.at_level(logging.DEBUG, "appliance.llama"), Model(str(path), n_cpu_moe=n_cpu_moe):
        pass
    lines = (record.getMessage() for record in caplog.records)
    return {line.split()[1] for line in lines if "buffer type overridden to CPU" in line}


def test_the_experts_of_the_first_layers_are_kept_in_ram(experts: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert overridden(caplog, experts, n_cpu_moe=2) == {
        f"blk.{layer}.ffn_{part}_exps.weight" for layer in (0, 1) for part in ("gate", "down", "up")
    }


def test_without_being_asked_nothing_is_kept_in_ram(experts: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert overridden(caplog, experts, n_cpu_moe=0) == set()


def test_all_experts_are_kept_in_ram_when_more_layers_are_named_than_there_are(
    experts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(overridden(caplog, experts, n_cpu_moe=99)) == 3 * N_LAYERS


def test_parts_for_more_gpus_than_llama_cpp_knows_are_refused(experts: Path) -> None:
    with pytest.raises(EngineFailed, match="tensor_split=.* has 17 parts; llama.cpp takes 16 at most"):
        Model(str(experts), n_gpu_layers=1, tensor_split=(1.0,) * 17)


def test_parts_for_gpus_are_no_error_where_there_are_none(experts: Path) -> None:
    with Model(str(experts), n_gpu_layers=-1, tensor_split=(1.0, 3.0)) as model:
        assert model.n_gpu_layers == (N_LAYERS + 1 if library.has_gpu() else 0)
