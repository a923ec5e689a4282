"""The engine's loop with guesses, over a model that repeats the alphabet."""

from __future__ import annotations

import threading
from dataclasses import replace

import msgspec
import pytest

from appliance.engine.core import EngineCore
from appliance.engine.messages import Finished, Piece, SequenceFinished, Submit
from appliance.engine.params import SamplingParams
from tests.engine.test_core import finish_reasons, run, text
from tests.factories import submit
from tests.fake_backend import FakeBackend

# What follows is in the prompt, once and for some way.
PROMPT = "abcdefghijklmnop. abcdefg"


def core(backend: FakeBackend, *, speculation: bool = True, n_batch: int = 64) -> EngineCore:
    return EngineCore(
        backend, n_batch=n_batch, max_running=4, prefix_reuse=True, speculation=speculation, now=lambda: 0
    )


def n_steps(message: Submit, *, speculation: bool) -> int:
    backend = FakeBackend()
    run(core(backend, speculation=speculation), message)
    return len(backend.steps)


def test_an_answer_that_repeats_its_prompt_takes_fewer_steps_and_is_the_same() -> None:
    backend = FakeBackend()
    engine = core(backend)
    events = run(engine, submit(PROMPT, max_tokens=9))
    assert text(events) == "hijklmnop"
    assert len(backend.steps) < 9
    assert 0 < engine.load.n_draft_accepted <= engine.load.n_drafted
    assert engine.load.n_sampled == 9
    assert events[-1] == Finished(events[-1].request_id, n_prompt=len(PROMPT), n_cached=0, n_completion=9)


def test_wrong_guesses_cost_nothing_but_their_cells_which_are_free_again() -> None:
    backend = FakeBackend()
    engine = core(backend)
    # The prompt goes on otherwise than the model.
    events = run(engine, submit("abcdefghi1234567890 ab", max_tokens=20))
    assert text(events) == "cdefghijklmnopqrstuv"
    assert engine.load.n_drafted > engine.load.n_draft_accepted
    next(iter(engine._lanes)).scheduler.check_integrity()
    # The next request goes on from what is in the cache: the fake refuses a slot that holds anything else.
    assert text(run(engine, submit("abcdefghi1234567890 abcdefgh", max_tokens=3))) == "ijk"


def test_without_it_nothing_is_guessed() -> None:
    assert n_steps(submit(PROMPT, max_tokens=9), speculation=False) == 9
    assert n_steps(submit(PROMPT, max_tokens=9, speculation=False), speculation=True) == 9


@pytest.mark.parametrize("max_tokens", range(1, 12))
def test_the_length_is_kept(max_tokens: int) -> None:
    events = run(core(FakeBackend()), submit(PROMPT, max_tokens=max_tokens))
    assert text(events) == "hijklmnopqrs"[:max_tokens]
    (end,) = [event for event in events if isinstance(event, SequenceFinished)]
    assert (end.finish_reason, end.n_tokens) == ("length", max_tokens)


def test_a_stop_string_among_right_guesses_ends_the_text_and_the_count() -> None:
    events = run(core(FakeBackend()), submit(PROMPT, max_tokens=30, stop=("no",)))
    assert (text(events), finish_reasons(events)) == ("hijklm", ["stop"])
    assert events[-1].n_completion == 8  # what was sampled until the stop string was whole


def test_an_end_that_was_guessed_ends() -> None:
    prompt = "qrstuvwxyz\0. qrstu"
    events = run(core(FakeBackend()), submit(prompt, max_tokens=30))
    assert (text(events), finish_reasons(events)) == ("vwxyz", ["stop"])


def test_each_token_has_its_log_probability() -> None:
    events = run(core(FakeBackend()), submit(PROMPT, max_tokens=9, top_logprobs=0))
    logprobs = [one.token for event in events if isinstance(event, Piece) for one in event.logprobs]
    assert b"".join(logprobs) == b"hijklmnop"


def test_several_answers_are_guessed_each_by_itself() -> None:
    events = run(core(FakeBackend()), submit(PROMPT, max_tokens=9, n=3))
    assert [text(events, index) for index in range(3)] == ["hijklmnop"] * 3


def test_no_step_samples_behind_more_tokens_than_the_backend_can() -> None:
    backend = FakeBackend()
    run(core(backend), *[submit(f"{number}{PROMPT}", max_tokens=9) for number in range(2)])
    outputs = [sum(1 + len(c.draft) for c in plan.chunks if c.wants_logits) for plan in backend.steps]
    assert max(outputs) <= backend.info.n_outputs
    assert any(chunk.draft for plan in backend.steps for chunk in plan.chunks)


def test_a_full_cache_has_no_room_for_guesses() -> None:
    backend = FakeBackend(n_ctx=40, n_ctx_train=40)
    events = run(core(backend), submit(PROMPT, max_tokens=None))
    assert text(events) == "hijklmnopqrstuv"
    assert finish_reasons(events) == ["length"]


def test_under_a_grammar_nothing_is_guessed() -> None:
    compiled = threading.Semaphore(0)
    engine = EngineCore(
        FakeBackend(), n_batch=64, max_running=4, prefix_reuse=True, speculation=True, on_ready=compiled.release
    )
    events = engine.submit(submit(PROMPT, max_tokens=9, grammar="start: /[a-z]+/"))
    while engine.is_idle:
        assert compiled.acquire(timeout=10)
        events += engine.submit_ready()
    assert text(events + run(engine)) == "hijklmnop"
    assert engine.load.n_drafted == 0


def test_a_seed_is_guessed_for_only_where_results_do_not_depend_on_steps() -> None:
    seeded = submit(PROMPT, max_tokens=9, params=SamplingParams(temperature=0, seed=1))
    assert n_steps(seeded, speculation=True) == 9  # the fake promises nothing
    backend = FakeBackend(n_lanes=2, adapters=("x",))
    backend.info = replace(backend.info, exact_reuse=True)
    engine = core(backend)
    run(engine, seeded)
    assert engine.load.n_drafted > 0
    n_drafted = engine.load.n_drafted
    run(engine, msgspec.structs.replace(seeded, request_id="adapted", adapter="x"))  # which is computed in other types
    assert engine.load.n_drafted == n_drafted
