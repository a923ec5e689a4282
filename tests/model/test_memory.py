"""The estimate from a header against what llama.cpp says of its own buffers, and what a loaded engine takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.engine.llama.backend import N_RETAINED, LlamaBackend
from appliance.engine.messages import EngineConfig
from appliance.errors import ConfigError
from appliance.hardware.estimate import RunShape, estimate
from appliance.hardware.memory_use import MIB, RAM
from appliance.models.gguf_file import read_gguf
from appliance.models.shape import shape_of
from appliance.models.store import StoredModel
from appliance.models.subprocesses import run_quick_job
from tests.gguf_shapes import write_sparse
from tests.tiny_models import write_model

RUN = RunShape(n_ctx=8192, n_seq_max=65, n_batch=512)
CONTEXTS = (2048, 8192, 32768)
TOLERANCE = 0.15


def probe(path: Path, run: RunShape) -> dict[str, Any]:
    request = {"path": str(path), **msgspec.to_builtins(run)}
    found: dict[str, Any] = run_quick_job("memory_probe", request, timeout_s=60)
    return found


def kinds(found: dict[str, Any]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for _, kind, n_bytes in found["buffers"]:
        sizes[kind] = sizes.get(kind, 0) + n_bytes
    return sizes


@pytest.mark.parametrize("n_ctx", CONTEXTS)
@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_the_estimate_is_what_the_probe_measures(stored: StoredModel, n_ctx: int, kind: str) -> None:
    run = msgspec.structs.replace(RUN, n_ctx=n_ctx, type_k=kind, type_v=kind)
    estimated = estimate(stored.record.shape, run)[RAM]
    found = probe(stored.path, run)
    measured = kinds(found)
    assert found["n_cells"] == n_ctx
    assert estimated.kv_bytes == pytest.approx(measured["kv"], abs=0.01 * MIB)
    assert estimated.compute_bytes == pytest.approx(measured["compute"] + measured["output"], rel=0.10)


@pytest.mark.parametrize("n_ctx", CONTEXTS)
def test_the_estimate_is_what_a_loaded_engine_takes(stored: StoredModel, n_ctx: int) -> None:
    run = msgspec.structs.replace(RUN, n_ctx=n_ctx, n_outputs_max=RUN.n_seq_max)
    estimated = estimate(stored.record.shape, run)[RAM]
    with LlamaBackend(engine_config(stored, n_ctx)) as backend:
        measured = sum(buffer.n_bytes for buffer in backend.info.buffers)
        assert estimated.total_bytes - estimated.overhead_bytes == pytest.approx(measured, rel=TOLERANCE)


def test_the_estimate_of_a_model_and_its_draft_model_is_what_they_take(stored: StoredModel) -> None:
    run = msgspec.structs.replace(RUN, n_ctx=2048, n_outputs_max=RUN.n_seq_max)
    estimated = estimate(stored.record.shape, run, draft=stored.record.shape)[RAM]
    config = msgspec.structs.replace(engine_config(stored, 2048), draft_model_path=str(stored.path))
    with LlamaBackend(config) as backend:
        measured = sum(buffer.n_bytes for buffer in backend.info.buffers)
        assert estimated.total_bytes - estimated.overhead_bytes == pytest.approx(measured, rel=TOLERANCE)


def engine_config(stored: StoredModel, n_ctx: int) -> EngineConfig:
    return EngineConfig(
        model_path=str(stored.path),
        tensor_types=stored.record.header.tensor_types,
        longest_token_bytes=stored.record.header.longest_token_bytes,
        n_ctx=n_ctx,
        n_batch=RUN.n_batch,
        prompt_step_s=0.25,
        stream_interval_s=0.0,
        n_threads=1,
        n_threads_batch=1,
        poll=0,
        n_gpu_layers=0,
        max_running=RUN.n_seq_max - N_RETAINED - 1,
        prefix_reuse=True,
    )


# Shapes of well-known models: their headers, with holes for weights.
SHAPES: dict[str, dict[str, Any]] = {
    "1B": {"n_layer": 16, "n_embd": 2048, "n_ff": 8192, "n_head": 32, "n_head_kv": 8, "n_vocab": 32000},
    "1B, large vocabulary": {
        "arch": "qwen2",
        "n_layer": 24,
        "n_embd": 1536,
        "n_ff": 8960,
        "n_head": 12,
        "n_head_kv": 2,
        "n_vocab": 151936,
        "is_tied": True,
    },
    "8B": {"n_layer": 32, "n_embd": 4096, "n_ff": 14336, "n_head": 32, "n_head_kv": 8, "n_vocab": 128256},
    "30B, experts": {
        "arch": "qwen3moe",
        "n_layer": 48,
        "n_embd": 2048,
        "n_ff": 6144,
        "n_head": 32,
        "n_head_kv": 4,
        "head_dim": 128,
        "n_vocab": 151936,
        "n_expert": 128,
        "n_expert_used": 8,
        "n_ff_expert": 768,
    },
    "experts, hardly a vocabulary": {
        "arch": "qwen3moe",
        "n_layer": 4,
        "n_embd": 4096,
        "n_ff": 14336,
        "n_head": 32,
        "n_head_kv": 4,
        "head_dim": 128,
        "n_vocab": 512,
        "n_expert": 8,
        "n_expert_used": 4,
        "n_ff_expert": 14336,
    },
    "wide attention": {
        "n_layer": 4,
        "n_embd": 2048,
        "n_ff": 512,
        "n_head": 32,
        "n_head_kv": 32,
        "head_dim": 128,
        "n_vocab": 512,
    },
}


@pytest.mark.parametrize(("n_ctx", "n_batch", "n_outputs_max"), [(2048, 512, 0), (32768, 512, 65), (131072, 2048, 0)])
@pytest.mark.parametrize("name", SHAPES)
def test_the_estimate_holds_for_other_shapes(
    tmp_path: Path, name: str, n_ctx: int, n_batch: int, n_outputs_max: int
) -> None:
    path = write_sparse(tmp_path / "model.gguf", **SHAPES[name])
    run = msgspec.structs.replace(RUN, n_ctx=n_ctx, n_batch=n_batch, n_outputs_max=n_outputs_max)
    estimated = estimate(shape_of(read_gguf(path)), run)[RAM]
    measured = kinds(probe(path, run))
    assert estimated.kv_bytes == pytest.approx(measured["kv"], abs=0.01 * MIB)
    compute = measured["compute"] + measured["output"]
    assert 0.97 * compute <= estimated.compute_bytes <= 1.15 * compute


@pytest.mark.parametrize(("n_ctx", "n_batch", "n_outputs_max"), [(2048, 512, 0), (8192, 2048, 65)])
@pytest.mark.parametrize("kind", ["sliding", "recurrent", "hybrid"])
def test_the_estimate_holds_for_each_kind_of_memory(
    tmp_path: Path, kind: str, n_ctx: int, n_batch: int, n_outputs_max: int
) -> None:
    """A recurrent layer has a state for each of ``n_seq_max`` sequences, used or not."""
    path = write_model(tmp_path / "model.gguf", kind)
    run = msgspec.structs.replace(RUN, n_ctx=n_ctx, n_batch=n_batch, n_outputs_max=n_outputs_max)
    estimated = estimate(shape_of(read_gguf(path)), run)[RAM]
    measured = kinds(probe(path, run))
    assert estimated.kv_bytes == pytest.approx(measured["kv"], abs=0.01 * MIB)
    compute = measured["compute"] + measured["output"]
    assert 0.97 * compute <= estimated.compute_bytes <= 1.25 * compute


def test_a_batch_with_fewer_tokens_than_sequences_is_refused_before_llama_cpp_aborts(
    stored: StoredModel,
) -> None:
    with pytest.raises(ConfigError, match="n_batch=64: llama.cpp wants at least one token for each of n_seq_max=65"):
        probe(stored.path, msgspec.structs.replace(RUN, n_batch=64))


def test_what_is_no_model_is_an_error_in_words(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match="llama.cpp can't load"):
        probe(path, RUN)
