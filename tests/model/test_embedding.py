"""Embedding by llama.cpp: small encoders with random weights."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import PoolingType

from appliance.engine.embedding import EmbeddingCore
from appliance.engine.llama.embedder import LlamaEmbedder
from appliance.engine.messages import Embed, Embedded, EngineConfig
from appliance.errors import EngineFailed
from appliance.hardware.estimate import RunShape, estimate
from appliance.hardware.memory_use import RAM
from appliance.hardware.repack import REPACKED_TYPES
from appliance.models.gguf_file import read_gguf
from appliance.models.gguf_header import read_header
from appliance.models.shape import shape_of
from tests.tiny_bert import CLS, SEP, WORDS, write_bert
from tests.tiny_models import write_model

pytestmark = pytest.mark.model

Vectors = np.ndarray[Any, np.dtype[np.float32]]


def config(path: Path, *, n_ctx: int = 64, n_batch: int = 64) -> EngineConfig:
    header = read_header(path)
    return EngineConfig(
        model_path=str(path),
        tensor_types=header.tensor_types,
        longest_token_bytes=header.longest_token_bytes,
        n_ctx=n_ctx,
        n_batch=n_batch,
        prompt_step_s=0.25,
        stream_interval_s=0.0,
        n_threads=1,
        n_threads_batch=1,
        poll=0,
        n_gpu_layers=0,
        max_running=4,
        prefix_reuse=True,
        pooling=header.pooling,
    )


def texts(n: int) -> list[str]:
    draw = random.Random(3)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 20))) for _ in range(n)]


def embed(core: EmbeddingCore, *inputs: str | tuple[int, ...]) -> Vectors:
    """One row for each."""
    events = core.submit(Embed("r", inputs))
    while not core.is_idle:
        events += core.step()
    end = events[-1]
    assert isinstance(end, Embedded), end
    return np.frombuffer(end.vectors, "<f4").reshape(len(inputs), end.n_embd)


@pytest.fixture(
    scope="module", params=[PoolingType.MEAN, PoolingType.CLS, PoolingType.LAST], ids=["mean", "cls", "last"]
)
def embedder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEmbedder]:
    path = write_bert(tmp_path_factory.mktemp("bert") / "model.gguf", pooling=request.param)
    with LlamaEmbedder(config(path)) as embedder:
        yield embedder


def test_a_decoder_with_a_kv_cache_embeds_too(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", "llama", pooling=PoolingType.LAST)
    with LlamaEmbedder(config(path, n_ctx=256, n_batch=300)) as embedder:
        core = EmbeddingCore(embedder, n_batch=300)
        given = texts(20)
        together = embed(core, *given)
        alone = np.concatenate([embed(core, text) for text in given])
        assert (together * alone).sum(axis=1).min() >= 0.9999
        assert (together[:-1] * alone[1:]).sum(axis=1).max() < 0.9999
        assert embed(core, "a" * 250).shape == (1, embedder.n_embd)


def test_texts_together_have_the_vectors_that_each_has_alone(embedder: LlamaEmbedder) -> None:
    core = EmbeddingCore(embedder, n_batch=64)
    given = texts(100)
    together = embed(core, *given)
    assert core.load.n_steps < len(given) / 2
    alone = np.concatenate([embed(core, text) for text in given])
    assert (together * alone).sum(axis=1).min() >= 0.9999
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-5
    # Others differ, or the order would not be tested.
    assert (together[:-1] * alone[1:]).sum(axis=1).max() < 0.9999


def test_a_text_has_its_marks_and_cannot_write_one(embedder: LlamaEmbedder) -> None:
    tokens = embedder.tokenize("the sea [SEP] [CLS]")
    assert (tokens[0], tokens[-1]) == (CLS, SEP)
    assert not {CLS, SEP} & set(tokens[1:-1])
    core = EmbeddingCore(embedder, n_batch=64)
    by_text, by_tokens = embed(core, "the sea"), embed(core, tuple(embedder.tokenize("the sea")))
    assert float((by_text * by_tokens).sum()) >= 0.9999


def test_a_text_may_fill_the_context(embedder: LlamaEmbedder) -> None:
    core = EmbeddingCore(embedder, n_batch=16)
    full = embed(core, "sea " * 62, "a boat")
    assert full.shape == (2, embedder.n_embd)
    assert np.isfinite(full).all()


def test_a_model_that_rates_texts_is_not_loaded(tmp_path: Path) -> None:
    path = write_bert(tmp_path / "model.gguf", pooling=PoolingType.RANK)
    with pytest.raises(EngineFailed, match="rank"):
        LlamaEmbedder(config(path))


def test_its_memory_is_as_estimated(tmp_path: Path) -> None:
    path = write_bert(
        tmp_path / "model.gguf", n_layer=4, n_embd=384, n_head=12, n_ff=1536, n_ctx_train=2048, n_vocab=8000
    )
    shape = shape_of(read_gguf(path))
    run = RunShape(n_ctx=2048, n_seq_max=128, n_batch=2048, is_embedding=True)
    estimated = estimate(shape, run, (), REPACKED_TYPES)
    with LlamaEmbedder(config(path, n_ctx=2048, n_batch=512)) as embedder:
        buffers = embedder.info.buffers
    compute = sum(buffer.n_bytes for buffer in buffers if buffer.kind == "compute")
    weights = sum(buffer.n_bytes for buffer in buffers if buffer.kind == "weights")
    assert estimated[RAM].kv_bytes == 0
    assert estimated[RAM].weights_bytes == pytest.approx(weights, rel=0.05)
    # Many have a gate beside such a network, so for this one it is too much.
    assert compute < estimated[RAM].compute_bytes < 2.2 * compute
