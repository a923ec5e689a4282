from __future__ import annotations

import pytest

from appliance.engine.pace import ALONE_STEP_S, MIN_CHUNK, Pace


def settle(pace: Pace, *, fixed_s: float, s_per_token: float, n_decoding: int) -> int:
    """The chunk that is reached on a machine where a step takes so long."""
    n_prompt = 0
    for _ in range(40):
        limits = pace.limits()
        n_prompt = limits.beside_decode if n_decoding else limits.alone
        pace.observe(n_prompt=n_prompt, n_decoding=n_decoding, step_s=fixed_s + s_per_token * n_prompt)
    return n_prompt


def test_chunks_beside_streams_take_the_time_they_may() -> None:
    n_prompt = settle(Pace(n_batch=512, step_s=0.25), fixed_s=0.05, s_per_token=0.001, n_decoding=4)
    assert 0.05 + 0.001 * n_prompt == pytest.approx(0.25, rel=0.02)


def test_chunks_alone_take_longer() -> None:
    n_prompt = settle(Pace(n_batch=4096, step_s=0.25), fixed_s=0.01, s_per_token=0.001, n_decoding=0)
    assert n_prompt * 0.001 == pytest.approx(ALONE_STEP_S, rel=0.03)


def test_a_fast_machine_fills_the_batch() -> None:
    assert settle(Pace(n_batch=512, step_s=0.25), fixed_s=0.001, s_per_token=1e-5, n_decoding=4) == 512


def test_a_slow_machine_still_gets_on() -> None:
    assert settle(Pace(n_batch=512, step_s=0.25), fixed_s=2.0, s_per_token=0.2, n_decoding=4) == MIN_CHUNK


def test_the_first_chunk_is_a_guess() -> None:
    assert Pace(n_batch=512, step_s=0.25).limits().beside_decode == MIN_CHUNK


def test_no_chunk_is_longer_than_the_batch() -> None:
    assert Pace(n_batch=16, step_s=0.25).limits().beside_decode == 16
    assert settle(Pace(n_batch=16, step_s=9.0), fixed_s=0.0, s_per_token=0.001, n_decoding=1) == 16


def test_a_few_tokens_teach_nothing() -> None:
    pace = Pace(n_batch=512, step_s=0.25)
    pace.observe(n_prompt=2, n_decoding=4, step_s=1.0)
    assert pace.limits().beside_decode == MIN_CHUNK


def test_lanes_that_take_turns_share_the_time_that_streams_may_wait() -> None:
    pace = Pace(n_batch=4096, step_s=0.2)
    for n_decoding in (0, 4):
        pace.observe(n_prompt=1000, n_decoding=n_decoding, step_s=1.0)
    alone, shared = pace.limits(), pace.limits(2)
    assert (alone.beside_decode, shared.beside_decode) == (200, 100)
    assert (alone.alone, shared.alone) == (1000, 100)
