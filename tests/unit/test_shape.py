"""What is read from a header that nobody vouches for."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import ConfigError
from appliance.hardware.estimate import RunShape, estimate
from appliance.hardware.memory_use import RAM
from appliance.hardware.shape import ModelShape
from appliance.models.gguf_file import GGUFFile, TensorInfo, read_gguf
from appliance.models.shape import shape_of
from tests.gguf_shapes import write_sparse

LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 4096,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 256,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
}


def tensor(name: str, *shape: int, kind: str = "F16", n_bytes: int | None = None) -> TensorInfo:
    n_elements = 1
    for size in shape:
        n_elements *= size
    return TensorInfo(name, shape, kind, 0, 2 * n_elements if n_bytes is None else n_bytes)


def shape(*tensors: TensorInfo, without: str | None = None, **metadata: Any) -> ModelShape:
    """Of the small model above; in keywords, ``__`` stands for a dot."""
    fields = LLAMA | {f"llama.{key.replace('__', '.')}": value for key, value in metadata.items()}
    if without is not None:
        del fields[f"llama.{without}"]
    return shape_of(GGUFFile(fields, tensors))


def test_a_file_is_read_to_the_byte(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "m.gguf", n_layer=3, n_embd=64, n_ff=256, n_head=4, n_head_kv=2, n_vocab=512)
    found = shape_of(read_gguf(path))
    q8_0 = 34 / 32
    matrices = int((2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 256) * q8_0)
    assert [layer.n_bytes for layer in found.layers] == [matrices + 2 * 64 * 4] * 3
    assert found.layers[0].matrices == {"Q8_0": matrices}
    assert (found.layers[0].n_k, found.layers[0].n_v) == (32, 32)
    assert (found.input_bytes, found.output_bytes) == (512 * 64 * q8_0, 512 * 64 * q8_0 + 64 * 4)
    assert (found.n_vocab, found.n_embd, found.n_ff, found.n_attention, found.tied_bytes) == (512, 64, 256, 64, 0)
    assert found.n_layers == 4


def test_a_head_that_is_tied_to_the_embeddings_counts_once_in_ram_and_as_a_copy_on_a_gpu(tmp_path: Path) -> None:
    found = shape_of(read_gguf(write_sparse(tmp_path / "m.gguf", is_tied=True)))
    assert found.tied_bytes == found.input_bytes
    run = RunShape(n_ctx=512, n_seq_max=1, n_batch=64)
    in_ram = estimate(found, run, repacks=frozenset())[RAM].weights_bytes
    assert in_ram == found.input_bytes + 64 * 4 + sum(layer.n_bytes for layer in found.layers)
    on_gpu = estimate(found, msgspec.structs.replace(run, n_gpu_layers=-1), ("CUDA0",))
    assert sum(use.weights_bytes for use in on_gpu.values()) == in_ram + found.input_bytes


def test_experts_are_counted_by_themselves(tmp_path: Path) -> None:
    found = shape_of(read_gguf(write_sparse(tmp_path / "m.gguf", arch="qwen3moe", n_expert=8, n_ff_expert=128)))
    layer = found.layers[0]
    assert layer.n_expert_bytes == 3 * 64 * 128 * 8 * 34 // 32
    assert layer.expert_matrices == {"Q8_0": layer.n_expert_bytes}
    assert 0 < layer.n_bytes - layer.n_expert_bytes < layer.n_bytes
    assert (found.n_expert_used, found.n_ff_expert) == (2, 128)


def test_types_that_the_cpu_reorders_count_twice() -> None:
    found = shape(tensor("blk.0.ffn_up.weight", 64, 256, kind="Q4_0"), tensor("blk.1.ffn_up.weight", 64, 256))
    run = RunShape(n_ctx=512, n_seq_max=1, n_batch=64)
    once = estimate(found, run, repacks=frozenset())[RAM].weights_bytes
    twice = estimate(found, run, repacks=frozenset({"Q4_0"}))[RAM].weights_bytes
    assert twice == once + found.layers[0].n_bytes
    # With CUDA, llama.cpp keeps weights in RAM as they are.
    assert estimate(found, run, ("CUDA0",), frozenset({"Q4_0"}))[RAM].weights_bytes == once


def test_heads_may_differ_by_layer() -> None:
    found = shape(attention__head_count_kv=array("I", [4, 0]))
    assert [layer.n_k for layer in found.layers] == [64, 0]


def test_each_head_has_keys_of_its_own_where_the_header_says_nothing() -> None:
    assert [layer.n_k for layer in shape(without="attention.head_count_kv").layers] == [64, 64]


def test_keys_and_values_may_be_wider_than_the_embedding_says() -> None:
    layer = shape(attention__key_length=192, attention__value_length=128).layers[0]
    assert (layer.n_k, layer.n_v) == (384, 256)


def test_the_wider_heads_count_where_layers_with_a_window_have_others() -> None:
    assert shape(attention__key_length=64, attention__key_length_swa=256).layers[0].n_k == 512


def test_latent_attention_keeps_no_values_unless_it_has_an_indexer() -> None:
    latent: dict[str, Any] = {
        "attention__key_length_mla": 192,
        "attention__head_count_kv": 1,
        "attention__key_length": 576,
    }
    assert (shape(**latent).layers[0].n_k, shape(**latent).layers[0].n_v) == (576, 0)
    assert shape(**latent, attention__indexer__head_count=4).layers[0].n_v > 0


def test_recurrent_layers_have_a_state_instead_of_a_cache() -> None:
    found = shape(
        tensor("blk.0.ssm_in.weight", 64, 64),
        tensor("blk.1.attn_k.weight", 64, 32),
        ssm__conv_kernel=4,
        ssm__inner_size=128,
        ssm__state_size=16,
        ssm__group_count=1,
    )
    state, attention = found.layers
    assert (state.n_k, state.n_state, state.is_recurrent) == (0, 3 * (128 + 32) + 16 * 128, True)
    assert (attention.n_k, attention.n_state, attention.is_recurrent) == (32, 0, False)
    run = RunShape(n_ctx=512, n_seq_max=10, n_batch=64)
    assert estimate(found, run)[RAM].kv_bytes == 10 * 4 * state.n_state + 512 * 2 * 64


def test_layers_that_share_or_only_predict_have_no_cache() -> None:
    assert [layer.n_k for layer in shape(attention__shared_kv_layers=1).layers] == [32, 0]
    assert [layer.n_k for layer in shape(nextn_predict_layers=1).layers] == [32, 0]


def test_without_a_number_of_layers_the_tensors_say_it() -> None:
    found = shape(tensor("blk.4.ffn_up.weight", 64, 64), without="block_count")
    assert len(found.layers) == 5


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("block_count", "many", "llama.block_count in the model's header is str; want a number from 0 to 512"),
        ("block_count", -1, "is -1; want"),
        ("block_count", 1 << 40, "is 1099511627776; want"),
        ("block_count", True, "is True; want"),
        ("embedding_length", 3.5, "is 3.5; want"),
        ("context_length", 1 << 60, "llama.context_length"),
        ("attention.head_count", ["a", "b"], "llama.attention.head_count in the model's header is list"),
        ("attention.head_count_kv", array("I", [1]), "has 1 numbers of the type I; want 2 integers"),
        ("attention.head_count_kv", array("f", [1.0, 2.0]), "has 2 numbers of the type f; want 2 integers"),
        ("attention.head_count_kv", array("i", [1, -5]), "is -5; want"),
        ("attention.key_length", array("I", [1, 1]), "llama.attention.key_length in the model's header is array"),
        ("ssm.state_size", 1 << 63, "llama.ssm.state_size"),
    ],
)
def test_nonsense_is_refused_by_name_and_value(key: str, value: Any, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        shape_of(GGUFFile(LLAMA | {f"llama.{key}": value}, ()))
    assert complaint in refused.value.message


def test_a_header_without_an_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match="no general.architecture"):
        shape_of(GGUFFile({}, ()))


def test_an_embedding_without_rows_or_of_absurd_size_is_no_crash() -> None:
    assert shape(tensor("token_embd.weight")).n_vocab == 0
    with pytest.raises(ConfigError, match=r"token_embd.weight"):
        shape(tensor("token_embd.weight", 0, 1 << 63, n_bytes=0))


KEYS = [
    *("block_count", "context_length", "embedding_length", "feed_forward_length", "expert_used_count"),
    *("expert_feed_forward_length", "nextn_predict_layers", "attention.head_count", "attention.head_count_kv"),
    *("attention.key_length", "attention.value_length", "attention.key_length_mla", "attention.shared_kv_layers"),
    *("attention.sliding_window", "attention.sliding_window_pattern", "ssm.conv_kernel", "ssm.inner_size"),
    *("ssm.state_size", "ssm.group_count", "kda.head_dim", "wkv.head_size", "shortconv.l_cache"),
]
VALUES = st.one_of(
    st.integers(0, 1 << 20),
    st.integers(-(1 << 63), 1 << 64),
    st.floats(),
    st.text(max_size=3),
    st.booleans(),
    st.lists(st.text(max_size=2), max_size=3),
    st.lists(st.integers(0, 1 << 20), max_size=600).map(lambda numbers: array("I", numbers)),
)
NAMES = st.sampled_from(
    ["token_embd.weight", "output.weight", "blk.0.attn_k.weight", "blk.1.ssm_in.weight", "blk.99999999.x", "blk..y", ""]
)
TENSORS = st.builds(
    lambda name, sizes, n_bytes: TensorInfo(name, tuple(sizes), "Q4_0", 0, n_bytes),
    NAMES,
    st.lists(st.integers(0, 1 << 64), max_size=4),
    st.integers(0, 1 << 40),
)


@given(metadata=st.dictionaries(st.sampled_from(KEYS), VALUES), tensors=st.lists(TENSORS, max_size=4))
def test_whatever_a_header_says_it_is_refused_or_can_be_stored_and_estimated(
    metadata: dict[str, Any], tensors: list[TensorInfo]
) -> None:
    fields = {"general.architecture": "x"} | {f"x.{key}": value for key, value in metadata.items()}
    try:
        found = shape_of(GGUFFile(fields, tuple(tensors)))
    except ConfigError:
        return
    assert msgspec.json.decode(msgspec.json.encode(found), type=ModelShape) == found
    estimate(found, RunShape(n_ctx=512, n_seq_max=65, n_batch=512, n_gpu_layers=5), ("CUDA0",))
