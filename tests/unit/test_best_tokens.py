from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from appliance.engine.llama.sampler import best_tokens


@given(
    logits=arrays.arrays(np.float32, st.integers(1, 700), elements=st.floats(-40, 40, width=16)),
    n_top=st.integers(0, 20),
)
def test_the_best_are_those_of_sorting_all(logits: np.ndarray, n_top: int) -> None:
    wanted = sorted(range(len(logits)), key=lambda token: -logits[token])[:n_top]
    assert best_tokens(logits, n_top) == wanted


@pytest.mark.parametrize("n_vocab", [100, 49_152])
def test_banned_tokens_can_be_among_the_best_only_if_there_are_no_others(n_vocab: int) -> None:
    logits = np.full(n_vocab, -np.inf, dtype=np.float32)
    logits[[7, 50]] = [1.0, 2.0]
    assert best_tokens(logits, 3) == [50, 7, 0]
