"""LoRA adapters with the real model: each answer is computed with its own, whatever runs beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from gguf import GGUFValueType, GGUFWriter

from appliance.engine.core import EngineCore
from appliance.engine.llama.backend import LlamaBackend
from appliance.engine.messages import AdapterConfig, Buffer, Event, Piece, Submit, TokenLogprob
from appliance.errors import EngineFailed
from appliance.files import sha256_of
from appliance.models.store import StoredModel
from bench.lora import write_adapter
from tests.factories import submit
from tests.model.engines import SAFE_PROMPTS, config, engine, finished, run, texts

PROMPTS = SAFE_PROMPTS[:5]
NAMES = ("one", "two", "three")
# Rounding depends on what else is in a step: less than a tenth of this.
SAFE_MARGIN = 0.5
STRENGTH = 1.0


@pytest.fixture(scope="module")
def adapters(stored: StoredModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[AdapterConfig, ...]:
    folder = tmp_path_factory.mktemp("adapters")
    return tuple(
        write_adapter(stored.path, folder / name, seed=number, strength=STRENGTH) for number, name in enumerate(NAMES)
    )


@pytest.fixture(scope="module")
def adapted(stored: StoredModel, adapters: tuple[AdapterConfig, ...]) -> Iterator[LlamaBackend]:
    """The model with three adapters and room for two of them."""
    with LlamaBackend(config(stored, adapters=adapters, n_contexts=3)) as loaded:
        yield loaded


def ask(prompt: str, adapter: str) -> Submit:
    return submit(prompt, adapter=adapter, max_tokens=5, top_logprobs=2, ignore_eos=True)


def records(events: list[Event]) -> list[TokenLogprob]:
    return [record for event in events if isinstance(event, Piece) for record in event.logprobs]


def answer(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece))


def alone(core: EngineCore, adapter: str) -> dict[str, str]:
    """The answers by their prompts, of those prompts at which each token leads the next best by far."""
    found = {}
    for prompt in PROMPTS:
        (events,) = run(core, ask(prompt, adapter)).values()
        if all(record.top[0][1] - record.top[1][1] > SAFE_MARGIN for record in records(events)):
            found[prompt] = answer(events)
    return found


def test_each_of_a_mixed_load_gets_the_text_that_it_gets_alone(
    adapted: LlamaBackend, backend: LlamaBackend, adapters: tuple[AdapterConfig, ...]
) -> None:
    names = ("", *(adapter.id for adapter in adapters))
    expected = {adapter: alone(engine(adapted), adapter) for adapter in names}
    assert expected[""] == dict(zip(PROMPTS, texts(engine(backend), *(_plain(p) for p in PROMPTS)), strict=True))
    assert all(len(answers) >= 3 for answers in expected.values()), "too few that rounding can't change"
    differ = [p for p in PROMPTS if len({answers.get(p, "") for answers in expected.values()} - {""}) > 1]
    assert differ, "the adapters change no text"
    # Interleaved, and more adapters than there are contexts for.
    wanted = [(prompt, adapter) for prompt in PROMPTS for adapter in names if prompt in expected[adapter]]
    messages = [ask(prompt, adapter) for prompt, adapter in wanted]
    results = run(engine(adapted), *messages)
    for (prompt, adapter), message in zip(wanted, messages, strict=True):
        assert answer(results[message.request_id]) == expected[adapter][prompt], (prompt, adapter)


def _plain(prompt: str) -> Submit:
    return submit(prompt, max_tokens=5, ignore_eos=True)


def test_an_adapter_is_computed_at_its_scale(
    stored: StoredModel, adapters: tuple[AdapterConfig, ...], tmp_path: Path
) -> None:
    """Twice as strong at half the scale, it is the same; at no scale, it is the model alone."""
    twice = write_adapter(stored.path, tmp_path / "twice", seed=0, strength=2 * STRENGTH)
    half, none = (msgspec.structs.replace(twice, scale=scale) for scale in (0.5, 0.0))
    with LlamaBackend(config(stored, n_ctx=512, adapters=(adapters[0], half, none), n_contexts=2)) as loaded:
        core = engine(loaded)
        by_one, by_half, by_none, by_model = (
            records(*run(core, ask(PROMPTS[0], adapter)).values())[0].top
            for adapter in (adapters[0].id, half.id, none.id, "")
        )
    assert by_half == by_one
    assert by_none == by_model != by_one


def test_prefixes_are_reused_with_the_same_adapter_only(
    adapted: LlamaBackend, adapters: tuple[AdapterConfig, ...]
) -> None:
    core = engine(adapted)
    names = (adapters[0].id, adapters[1].id, "")
    cached = [finished(*run(core, ask(PROMPTS[0], adapter)).values()).n_cached for adapter in 2 * names]
    n_prompt = len(adapted.tokenize(submit(PROMPTS[0]).parts))
    assert cached == [0, 0, 0] + 3 * [n_prompt - 1]


def test_what_contexts_take_for_adapters_is_taken_at_load(adapted: LlamaBackend, backend: LlamaBackend) -> None:
    """Each has a KV cache and buffers of its own; the weights are shared, and the adapters' lie beside them."""
    before, after = _by_kind(backend.info.buffers), _by_kind(adapted.info.buffers)
    assert after["kv"] == 3 * before["kv"]
    assert 3 * before["compute"] <= after["compute"] < 3.5 * before["compute"]
    assert 0 < after["weights"] - before["weights"] < 0.1 * before["weights"]


def _by_kind(buffers: tuple[Buffer, ...]) -> Counter[str]:
    found: Counter[str] = Counter()
    for buffer in buffers:
        found[buffer.kind] += buffer.n_bytes
    return found


def test_a_file_that_is_no_adapter_of_the_model_says_so(
    stored: StoredModel, adapters: tuple[AdapterConfig, ...], tmp_path: Path
) -> None:
    cut, alien, late = tmp_path / "cut", tmp_path / "alien", tmp_path / "late"
    whole = Path(adapters[0].path).read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    _write(alien, n_in=100)
    _write(late, n_in=576, is_activated=True)
    for path, reason in (
        (cut, "corrupted or incomplete"),
        (alien, "wrong base model"),
        (late, "activated LoRA"),
        (stored.path, "expect general.type to be 'adapter'"),
    ):
        message = _refusal(stored, AdapterConfig("harbour", str(path), sha256_of(path)))
        assert reason in message
        assert "the adapter harbour" in message
    changed = msgspec.structs.replace(adapters[0], sha256="0" * 64)
    assert "models.lock says 0000" in _refusal(stored, changed)
    gone = msgspec.structs.replace(adapters[0], path=str(tmp_path / "gone"))
    assert f"{tmp_path / 'gone'}: No such file" in _refusal(stored, gone)


def _refusal(stored: StoredModel, adapter: AdapterConfig) -> str:
    with pytest.raises(EngineFailed) as caught:
        LlamaBackend(config(stored, n_ctx=256, adapters=(adapter,), n_contexts=2))
    return caught.value.message


def _write(path: Path, *, n_in: int, is_activated: bool = False) -> None:
    writer = GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    if is_activated:
        key = "adapter.alora.invocation_tokens"
        writer.add_key_value(key, [1], GGUFValueType.ARRAY, sub_type=GGUFValueType.UINT32)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((4, n_in), np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", np.zeros((576, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
