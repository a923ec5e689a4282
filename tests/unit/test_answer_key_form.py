"""The form of an answer's key: pinned, so that no change of it goes by unnoticed."""

from __future__ import annotations

import pytest

import appliance
from appliance.cache.key import VERSION, ModelIdentity, answer_key, embedding_key, is_deterministic
from appliance.engine.messages import PromptPart, Submit
from appliance.engine.params import SamplingParams

IDENTITY = ModelIdentity("0" * 64, "1" * 64, "build", "f16", "f16")
SUBMIT = Submit("r", parts=(PromptPart("x", True),), params=SamplingParams(seed=1))


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (SamplingParams(), False),
        (SamplingParams(temperature=0.0), True),
        (SamplingParams(temperature=0.5), False),
        (SamplingParams(seed=0), True),
        (SamplingParams(top_k=1), False),
    ],
)
def test_an_answer_may_be_kept_if_nothing_is_drawn_or_by_a_given_seed(params: SamplingParams, expected: bool) -> None:
    assert is_deterministic(params) is expected


def test_the_form_of_the_key_is_as_its_version_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, requests have other keys than before: raise VERSION, and pin what they are now."""
    monkeypatch.setattr(appliance, "__version__", "0")
    full = Submit(
        "r",
        parts=(PromptPart("<|user|>", True), PromptPart("hé", False)),
        params=SamplingParams(
            temperature=0.5, top_k=3, repeat_penalty=1.1, dry_multiplier=0.8, logit_bias={10: 1.0, 9: -1.5}, seed=-7
        ),
        n=2,
        max_tokens=9,
        stop=("b", "a", "b"),
        top_logprobs=1,
        ignore_eos=True,
        echo=True,
        grammar="start: /[a-z]/",
        shown_tokens=("[TOOL_CALLS]",),
        adapter="harbour-0123456789ab",
        scope="key:1",
        key="k",
        weight=2.0,
        is_batch=True,
    )
    least = Submit("r", tokens=(1, 2), params=SamplingParams(temperature=0.0))
    found = (VERSION, answer_key(IDENTITY, full).hex(), answer_key(IDENTITY, least).hex())
    assert found == PINNED


PINNED = (
    3,
    "7be738779ea33ef8c54b72567c01efcef4f15a3b1d87bc32af647e6f38dbe4b1",
    "6b542baac289e6d30ee752e6a9a8ee66addf8471ea17b29248e5356bded74858",
)


def test_every_release_has_keys_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    before = answer_key(IDENTITY, SUBMIT)
    monkeypatch.setattr(appliance, "__version__", "99.0")
    assert answer_key(IDENTITY, SUBMIT) != before


def test_a_text_that_is_embedded_has_a_key_of_its_own_by_model_scope_and_form() -> None:
    other = ModelIdentity("2" * 64, "1" * 64, "build", "f16", "f16")
    keys = [
        embedding_key(IDENTITY, "a", "hé"),
        embedding_key(IDENTITY, "a", "he"),
        embedding_key(IDENTITY, "a", (104, 233)),
        embedding_key(IDENTITY, "b", "hé"),
        embedding_key(other, "a", "hé"),
    ]
    assert len(set(keys)) == len(keys)
    assert embedding_key(IDENTITY, "a", "hé") == keys[0]
