"""Loading the real model, in this process: into what cache, how far it is, what it takes, and why it fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.engine.backend import LoadCancelled
from appliance.engine.llama.backend import LlamaBackend
from appliance.errors import EngineFailed
from appliance.models.store import StoredModel
from tests.factories import submit
from tests.model.engines import SAFE_PROMPTS, config, engine, texts


@pytest.fixture(scope="module")
def backend(stored: StoredModel) -> Iterator[LlamaBackend]:
    with LlamaBackend(config(stored)) as loaded:
        yield loaded


def test_the_same_text_comes_from_a_cache_of_other_types_and_no_bits_are_promised(stored: StoredModel) -> None:
    for type_k, type_v in (("q8_0", "q8_0"), ("bf16", "f32"), ("q8_0", "q5_1")):
        with LlamaBackend(config(stored, type_k=type_k, type_v=type_v)) as backend:
            assert texts(engine(backend), submit(SAFE_PROMPTS[0], max_tokens=8)) == [" 8, 9, 1"]
            assert (backend.info.exact_batch, backend.info.exact_reuse) == (None, False)


def test_a_smaller_type_makes_a_smaller_cache(stored: StoredModel, backend: LlamaBackend) -> None:
    with LlamaBackend(config(stored, type_k="q8_0", type_v="q8_0")) as small:
        assert kv_bytes(small) == pytest.approx(kv_bytes(backend) * 34 / 64, rel=0.01)  # 32 numbers take 34 bytes


def test_a_type_that_no_cache_can_have_is_refused_with_those_that_it_can(stored: StoredModel) -> None:
    with pytest.raises(EngineFailed, match="type_v='q3_k': a KV cache can be f32, f16, bf16, q8_0"):
        LlamaBackend(config(stored, type_v="q3_k"))


def kv_bytes(backend: LlamaBackend) -> int:
    return sum(buffer.n_bytes for buffer in backend.info.buffers if buffer.kind == "kv")


def test_the_buffers_of_model_and_context_are_told(stored: StoredModel, backend: LlamaBackend) -> None:
    sizes = {(buffer.device, buffer.kind): buffer.n_bytes for buffer in backend.info.buffers}
    weights = sum(n_bytes for (_, kind), n_bytes in sizes.items() if kind == "weights")
    assert {kind for _, kind in sizes} == {"weights", "kv", "compute", "output"}
    assert weights == pytest.approx(stored.path.stat().st_size, rel=0.05)
    # 30 layers with 3 heads of 64 numbers for K and V each, two bytes a number
    assert kv_bytes(backend) == 2048 * 30 * 2 * 3 * 64 * 2
    assert backend.info.anonymous_bytes > kv_bytes(backend)  # llama.cpp clears it when it is made
    assert backend.info.n_gpu_layers == 0


def test_loading_says_how_far_it_is(stored: StoredModel) -> None:
    ratios: list[float] = []

    def note(ratio: float) -> bool:
        ratios.append(ratio)
        return True

    with LlamaBackend(config(stored), note):
        pass
    assert ratios == sorted(ratios)
    assert (ratios[0], ratios[-1]) == (0.0, 1.0)
    assert len(ratios) > 100


def test_a_load_that_is_no_longer_wanted_is_given_up(stored: StoredModel) -> None:
    with pytest.raises(LoadCancelled):
        LlamaBackend(config(stored), lambda ratio: ratio < 0.5)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all" * 100])
def test_a_file_that_is_no_model_can_not_be_loaded(stored: StoredModel, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(EngineFailed, match="can't load"):
        LlamaBackend(config(stored, model_path=str(path)))
