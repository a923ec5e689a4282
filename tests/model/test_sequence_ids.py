"""Slots of recurrent models change their numbers in llama.cpp, so that it computes them together; nobody notices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from appliance.engine.llama.backend import LlamaBackend
from appliance.engine.llama.context import Context, Logits
from appliance.engine.llama.library import lib
from appliance.engine.sequence import Sequence
from appliance.engine.slots import Copy, Release
from appliance.engine.step import Chunk
from tests.factories import sequence
from tests.tiny_models import engine_config, tokens_of, write_model

TEXTS = {30: "once", 3: "twice", 17: "thrice", 4: "never", 0: "again"}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaBackend]:
    path = write_model(tmp_path_factory.mktemp("model") / "recurrent.gguf", "recurrent")
    with LlamaBackend(engine_config(path)) as backend:
        yield backend


@pytest.fixture
def context(loaded: LlamaBackend) -> Context:
    for slot in range(loaded.info.n_seq_max):
        loaded._context.release(slot)
    return loaded._context


def chunk(seq: Sequence, slot: int) -> Chunk:
    """All that is left to compute of it."""
    start, seq.n_computed = seq.n_computed, len(seq.tokens)
    return Chunk(seq, slot, start, len(seq.tokens) - start, True, True)


def decode(context: Context, *chunks: Chunk) -> Logits:
    return context.logits(len(context.decode(chunks, lone_slot=None))).copy()


def numbers(context: Context, *slots: int) -> list[int]:
    return [context._ids[slot] for slot in slots]


def alone(context: Context, text: str) -> Logits:
    """The logits of a text in a slot that is then freed."""
    logits = decode(context, chunk(sequence(prompt=tokens_of(text)), 9))
    context.release(9)
    return logits[0]


def test_those_of_a_step_follow_each_other_and_keep_their_states(context: Context) -> None:
    expected = {slot: alone(context, f"{text} more") for slot, text in TEXTS.items()}
    running = {slot: sequence(prompt=tokens_of(text)) for slot, text in TEXTS.items()}
    for slot, seq in running.items():
        decode(context, chunk(seq, slot))
    for letter in " more":
        for seq in running.values():
            seq.tokens += tokens_of(letter)
        logits = decode(context, *(chunk(seq, slot) for slot, seq in running.items()))
        first, *others = numbers(context, *TEXTS)
        assert others == [first + i for i in range(1, len(TEXTS))]
    for row, slot in zip(logits, TEXTS, strict=True):
        np.testing.assert_allclose(row, expected[slot], atol=1e-3)


def test_copies_and_saved_states_are_those_of_their_slots(context: Context) -> None:
    expected = alone(context, "a beginning and its end")
    begun = sequence(prompt=tokens_of("a beginning"))
    other = sequence(prompt=tokens_of("another"))
    decode(context, chunk(other, 5), chunk(begun, 2))
    assert numbers(context, 2) != [2]
    context.apply_memory((Copy(2, 11, begun.n_computed),))
    state = memoryview(bytearray(context.state_bytes(2)))
    assert context.copy_state(2, state)
    context.apply_memory((Release(2),))
    assert context.restore_state(2, state, begun.n_computed)
    for slot in (2, 11):
        behind = sequence(prompt=tokens_of("a beginning and its end"))
        behind.n_computed = begun.n_computed
        other.tokens += tokens_of("!")
        np.testing.assert_allclose(decode(context, chunk(behind, slot), chunk(other, 5))[0], expected, atol=1e-3)


def test_nothing_is_left_in_the_sequence_between(context: Context) -> None:
    last = lib.llama_n_seq_max(context.handle) - 1
    decode(context, *(chunk(sequence(prompt=tokens_of(text)), slot) for slot, text in TEXTS.items()))
    assert lib.llama_memory_seq_pos_max(context._memory, last) == -1
