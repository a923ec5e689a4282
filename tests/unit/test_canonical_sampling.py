"""What SamplingParams.canonical() makes equal is sampled in the same way: held against the sampler chain itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.llama import sampler
from appliance.engine.llama.context import Context
from appliance.engine.llama.model import Model
from appliance.engine.llama.sampler import Sampler
from appliance.engine.params import SamplingParams

# Of each field what turns its sampler off, and others.
VALUES: dict[str, list[Any]] = {
    "temperature": [0.0, 0.00005, 0.0002, 0.5, 1.0],
    "top_k": [0, 1, 40],
    "top_p": [1.0, 0.5, 0.9],
    "min_p": [0.0, 0.1, 0.2],
    "typical_p": [1.0, 0.5, 0.9],
    "repeat_penalty": [1.0, 0.9, 1.1],
    "repeat_last_n": [64, 0, -1, 32],
    "presence_penalty": [0.0, 0.5, -0.5],
    "frequency_penalty": [0.0, 0.5, -0.5],
    "dry_multiplier": [0.0, 0.5, 0.8],
    "dry_base": [1.75, 1.0, 1.5],
    "dry_allowed_length": [2, 0, 3],
    "dry_penalty_last_n": [-1, 0, 64],
    "dry_sequence_breakers": [("\n", ":", '"', "*"), (), (".",)],
    "xtc_probability": [0.0, 0.5, 1.0],
    "xtc_threshold": [0.1, 0.0, 0.5],
    "mirostat": [0, 1, 2],
    "mirostat_tau": [5.0, 4.0],
    "mirostat_eta": [0.1, 0.2],
    "logit_bias": [{}, {7: 1.0}, {7: -1.0, 9: 100.0}],
    "seed": [None, 0, 1, -1],
}
# More than any look back, so that none is shortened.
N_CTX = 1 << 22

Chain = list[tuple[str, tuple[Any, ...]]]


class Recorder:
    """Stands for llama.cpp: notes which samplers are made, in their order, and of what."""

    def __init__(self, real: Any) -> None:
        self.chain: Chain = []
        self.llama_logit_bias = real.llama_logit_bias

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> object:
            if name.startswith("llama_sampler_init_"):
                self.chain.append((name.removeprefix("llama_sampler_init_"), tuple(map(_plain, arguments))))
            return object() if name != "llama_sampler_sample" else 0

        return call


class FakeModel:
    n_vocab = 256
    vocab = "vocab"


def _plain(value: Any) -> Any:
    """Arrays of C by their contents."""
    if hasattr(value, "_length_"):
        return tuple((bias.token, bias.bias) if hasattr(bias, "token") else bias for bias in value)
    return value


@pytest.fixture(scope="module", autouse=True)
def recorder() -> Iterator[Recorder]:
    with pytest.MonkeyPatch.context() as patch:
        found = Recorder(sampler.lib)
        patch.setattr(sampler, "lib", found)
        patch.setattr(sampler, "_dry_prototype", sampler._dry_prototype.__wrapped__)
        patch.setattr(sampler.secrets, "randbits", lambda n_bits: 5)
        yield found


def chains(params: SamplingParams, recorder: Recorder) -> tuple[Chain, ...]:
    """What the first two answers of a request are sampled with; a penalty that changes nothing counts as none."""
    found = []
    for index in range(2):
        recorder.chain = []
        own = Sampler(cast(Model, FakeModel), params, [1, 2], index=index, n_ctx=N_CTX)
        own.sample(cast(Context, type("Context", (), {"handle": None})), 0, best=3)
        chain = recorder.chain or [("greedy", ())]  # the greatest logit was taken without one
        own.close()
        found.append([(name, of) for name, of in chain if name != "penalties" or of[2:] != (1.0, 0.0, 0.0)])
    return tuple(found)


PARAMS = st.builds(SamplingParams, **{name: st.sampled_from(values) for name, values in VALUES.items()})
CHANGES = st.sampled_from([(name, value) for name, values in VALUES.items() for value in values])


def test_all_fields_are_tried() -> None:
    assert set(VALUES) == set(SamplingParams.__struct_fields__)


@given(params=PARAMS)
def test_the_canonical_form_is_sampled_in_the_same_way(recorder: Recorder, params: SamplingParams) -> None:
    canonical = params.canonical()
    assert chains(canonical, recorder) == chains(params, recorder)
    assert (canonical.seed is None) == (params.seed is None)  # those with a seed are computed in batches of their own
    assert canonical.canonical() == canonical
    assert canonical.is_greedy == params.is_greedy


@given(params=PARAMS, change=CHANGES)
def test_what_is_sampled_in_the_same_way_has_one_canonical_form(
    recorder: Recorder, params: SamplingParams, change: tuple[str, Any]
) -> None:
    name, value = change
    other = msgspec.structs.replace(params, **{name: value})
    is_one_way = chains(other, recorder) == chains(params, recorder) and (other.seed is None) == (params.seed is None)
    assert (other.canonical() == params.canonical()) is is_one_way
