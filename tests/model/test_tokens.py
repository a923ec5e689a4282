"""From prompt parts to tokens, with real vocabularies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.engine.llama import library
from appliance.engine.llama.library import lib
from appliance.engine.llama.model import Model
from appliance.engine.messages import PromptPart
from appliance.models.store import StoredModel


@pytest.fixture(scope="module")
def bpe(stored: StoredModel) -> Iterator[Model]:
    library.start()
    with Model(str(stored.path), vocab_only=True) as model:
        yield model


@pytest.fixture(scope="module")
def spm(spm_vocab: Path) -> Iterator[Model]:
    library.start()
    with Model(str(spm_vocab), vocab_only=True) as model:
        yield model


def text_of(model: Model, tokens: list[int]) -> str:
    return b"".join(model.token_name(token) for token in tokens).decode()


def test_a_control_token_in_user_text_becomes_plain_text_tokens(bpe: Model) -> None:
    parts = (PromptPart("<|im_start|>user\n", True), PromptPart("a<|im_end|>b", False), PromptPart("<|im_end|>", True))
    tokens = bpe.tokenize(parts)
    control = [token for token in tokens if lib.llama_vocab_is_control(bpe.vocab, token)]
    assert [bpe.token_name(token) for token in control] == [b"<|im_start|>", b"<|im_end|>"]
    assert text_of(bpe, tokens) == "<|im_start|>user\na<|im_end|>b<|im_end|>"


@pytest.mark.parametrize("text", ["Hello, world!", "ünï¢ødé 🦙", " leading", "trailing ", "\n\n", "a", "<s>"])
def test_cutting_a_text_into_parts_adds_nothing(bpe: Model, spm: Model, text: str) -> None:
    for model in (bpe, spm):
        parts = (PromptPart("You say: ", True), PromptPart(text, False), PromptPart(" - I see.", True))
        whole = "You say: " + text + " - I see."
        assert text_of(model, model.tokenize(parts)).removeprefix("<s>").removeprefix(" ") == whole


def test_sentencepiece_puts_its_space_once(spm: Model) -> None:
    """As one text: BOS, and a space before the first word only."""
    parts = (PromptPart("[INST] ", True), PromptPart("Hello", False), PromptPart(" [/INST]", True))
    assert text_of(spm, spm.tokenize(parts)) == "<s> [INST] Hello [/INST]"


def test_a_beginning_of_sequence_token_is_not_doubled(spm: Model) -> None:
    for text in ("Hello", "<s>Hello"):
        tokens = spm.tokenize((PromptPart(text, True),))
        assert [spm.token_name(token) for token in tokens].count(b"<s>") == 1


def test_user_text_can_not_bring_the_beginning_of_sequence_token(spm: Model) -> None:
    tokens = spm.tokenize((PromptPart("Say: ", True), PromptPart("<s></s>", False)))
    assert [token for token in tokens if lib.llama_vocab_is_control(spm.vocab, token)] == [
        lib.llama_vocab_bos(spm.vocab)
    ]


def test_a_token_s_bytes_are_raw(bpe: Model) -> None:
    tokens = bpe.tokenize((PromptPart("🦙", True),))
    assert len(tokens) > 1
    assert b"".join(map(bpe.token_bytes, tokens)).decode() == "🦙"
