"""What a model is for, from its header; and how one that embeds is run."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from gguf import GGUFWriter, PoolingType

from appliance.hardware.estimate import RunShape, estimate
from appliance.hardware.fit import Room, Wanted, fit
from appliance.hardware.memory_use import RAM
from appliance.hardware.shape import LayerShape, ModelShape
from appliance.models.gguf_header import read_header
from appliance.models.store import ModelStore
from appliance.service.catalog import Catalog
from appliance.settings import Settings
from tests.fake_models import EMBEDDING_HEADER, publish_fakes

# Six layers of 384: MiniLM.
ENCODER = ModelShape(
    architecture="bert",
    layers=(LayerShape(n_bytes=3 << 20, n_k=384, n_v=384),) * 6,
    input_bytes=24 << 20,
    n_vocab=30_522,
    n_embd=384,
    n_ff=1536,
    n_head=12,
    n_attention=384,
    n_ctx_train=512,
    file_bytes=42 << 20,
)


def header(folder: Path, arch: str, pooling: PoolingType | None = None) -> Path:
    path = folder / "model.gguf"
    writer = GGUFWriter(path, arch)
    writer.add_context_length(512)
    writer.add_embedding_length(384)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("arch", "pooling", "kind", "how"),
    [
        ("llama", None, "text", ""),
        ("llama", PoolingType.NONE, "text", ""),
        ("qwen3", PoolingType.LAST, "embedding", "last"),
        ("bert", PoolingType.CLS, "embedding", "cls"),
        ("bert", None, "embedding", "mean"),
        ("bert", PoolingType.NONE, "embedding", "mean"),
        ("gemma-embedding", PoolingType.MEAN, "embedding", "mean"),
        ("bert", PoolingType.RANK, "rerank", "rank"),
    ],
)
def test_the_header_says_what_a_model_is_for(
    tmp_path: Path, arch: str, pooling: PoolingType | None, kind: str, how: str
) -> None:
    found = read_header(header(tmp_path, arch, pooling))
    assert (found.kind, found.pooling, found.n_embd) == (kind, how, 384)


def test_a_pooling_that_no_release_knows_is_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_uint32("llama.pooling_type", 77)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_header(path).kind == "text"


def test_an_encoder_has_no_kv_cache_and_no_head() -> None:
    run = RunShape(n_ctx=512, n_seq_max=128, n_batch=512, is_embedding=True)
    encoder = estimate(ENCODER, run)[RAM]
    decoder = estimate(msgspec.structs.replace(ENCODER, architecture="llama"), run)[RAM]
    assert encoder.kv_bytes == 0
    assert decoder.kv_bytes == 512 * 2 * 384 * 2 * 6
    assert decoder.compute_bytes - encoder.compute_bytes > 512 * 30_522 * 4


def test_a_step_has_room_for_the_longest_text() -> None:
    wanted = Wanted(n_ctx=2048, n_seq_max=128, n_batch=512, is_embedding=True)
    assert fit(ENCODER, wanted, (Room(RAM, 1 << 40),)).run.n_batch == 2048
    wanted = msgspec.structs.replace(wanted, n_ctx=64, n_batch=32)
    assert fit(ENCODER, wanted, (Room(RAM, 1 << 40),)).run.n_batch == 128, "llama.cpp wants a token a sequence"


def test_a_context_that_was_set_for_all_models_is_no_longer_than_an_encoder_s(tmp_path: Path) -> None:
    publish_fakes(tmp_path, {"a": EMBEDDING_HEADER})
    config = Settings(models_dir=tmp_path, models_lock=tmp_path / "models.lock", state_dir=tmp_path, n_ctx=32_768)
    wanted = Catalog(config, ModelStore(tmp_path)).resolve("a").spec.wanted
    assert (wanted.n_ctx, wanted.is_embedding, wanted.n_outputs_max) == (EMBEDDING_HEADER.n_ctx_train, True, 0)
