from __future__ import annotations

from appliance.engine.backend import BadBatch, KVCacheFull
from appliance.engine.core import EngineCore
from appliance.engine.messages import (
    Accepted,
    Detokenize,
    Detokenized,
    Event,
    Failed,
    Finished,
    Piece,
    Progress,
    PromptPart,
    SequenceFinished,
    Submit,
    Tokenize,
    Tokenized,
)
from appliance.engine.params import SamplingParams
from tests.factories import submit
from tests.fake_backend import FakeBackend


def core(backend: FakeBackend, *, max_running: int = 4, n_batch: int = 16) -> EngineCore:
    return EngineCore(backend, n_batch=n_batch, max_running=max_running, prefix_reuse=True, now=lambda: 0.0)


def run(engine: EngineCore, *messages: Submit) -> list[Event]:
    """All events until the engine is idle."""
    events = [event for message in messages for event in engine.submit(message)]
    while not engine.is_idle:
        events += engine.step()
    return events


def text(events: list[Event], index: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece) and event.index == index)


def finish_reasons(events: list[Event]) -> list[str]:
    return [event.finish_reason for event in events if isinstance(event, SequenceFinished)]


def test_a_request_is_accepted_generates_and_finishes() -> None:
    events = run(core(FakeBackend()), submit("ab", request_id="r", max_tokens=3))
    assert events == [
        Accepted("r", 2),
        Piece("r", 0, "c"),
        Piece("r", 0, "d"),
        Piece("r", 0, "e"),
        SequenceFinished("r", 0, "length", 3),
        Finished("r", n_prompt=2, n_cached=0, n_completion=3),
    ]


def test_an_end_token_finishes_with_stop_and_writes_nothing() -> None:
    events = run(core(FakeBackend()), submit("x", max_tokens=10))
    assert (text(events), finish_reasons(events)) == ("yz", ["stop"])


def test_ignore_eos_goes_on_behind_an_end_token() -> None:
    events = run(core(FakeBackend()), submit("y", max_tokens=5, ignore_eos=True))
    assert (text(events), finish_reasons(events)) == ("z\0abc", ["length"])


def test_a_stop_string_ends_the_text_before_it() -> None:
    events = run(core(FakeBackend()), submit("a", max_tokens=20, stop=("fg",)))
    assert (text(events), finish_reasons(events)) == ("bcde", ["stop"])


def test_what_may_become_a_stop_string_comes_out_when_it_does_not() -> None:
    events = run(core(FakeBackend()), submit("a", max_tokens=4, stop=("dX", "eX")))
    assert (text(events), finish_reasons(events)) == ("bcde", ["length"])


def test_a_full_context_finishes_with_length() -> None:
    events = run(core(FakeBackend(n_ctx=32)), submit("1" * 28, max_tokens=None))
    assert (text(events), finish_reasons(events)) == ("abcd", ["length"])


def test_n_sequences_share_one_prompt() -> None:
    backend = FakeBackend()
    events = run(core(backend), submit("hello", n=3, max_tokens=2))
    assert [text(events, index) for index in range(3)] == ["pq"] * 3
    assert sum(chunk.n_tokens for plan in backend.steps for chunk in plan.chunks) == 5 + 2 + 3  # prompt, its end twice
    assert [event for event in events if isinstance(event, Finished)][0].n_completion == 6


def test_a_repeated_prompt_counts_its_cached_tokens() -> None:
    engine = core(FakeBackend())
    run(engine, submit("hello"))
    finished = run(engine, submit("hello"))[-1]
    assert isinstance(finished, Finished)
    assert (finished.n_prompt, finished.n_cached) == (5, 4)


def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers() -> None:
    (event,) = core(FakeBackend(n_ctx=32)).submit(submit("x" * 32))
    assert isinstance(event, Failed)
    assert event.code == "context_length_exceeded"
    assert "32 tokens" in event.message
    assert "holds 32" in event.message


def test_the_trained_length_limits_a_sequence_in_a_larger_context() -> None:
    (event,) = core(FakeBackend(n_ctx=64, n_ctx_train=32)).submit(submit("x" * 40))
    assert isinstance(event, Failed)


def test_an_empty_prompt_is_refused() -> None:
    (event,) = core(FakeBackend()).submit(submit(""))
    assert isinstance(event, Failed)
    assert event.code == "invalid_value"


def test_a_token_outside_the_vocabulary_is_refused() -> None:
    (event,) = core(FakeBackend()).submit(Submit("r", tokens=(1, 999)))
    assert isinstance(event, Failed)
    assert "token 999 is not in the vocabulary" in event.message


def test_a_parameter_that_the_vocabulary_refuses_leaves_nothing_behind() -> None:
    backend = FakeBackend()
    engine = core(backend)
    (event,) = engine.submit(submit(n=2, params=SamplingParams(logit_bias={1: 1.0})))
    assert isinstance(event, Failed)
    assert not backend.samplers
    assert engine.is_idle


def test_an_abort_in_the_queue_in_prefill_and_in_decode_ends_the_request() -> None:
    backend = FakeBackend()
    engine = core(backend, max_running=2, n_batch=4)
    decoding, prefilling, queued = (
        submit("a", request_id="decoding", max_tokens=100),
        submit("1" * 30, request_id="prefilling"),
        submit("c", request_id="queued"),
    )
    engine.submit(decoding)
    engine.step()
    engine.submit(prefilling)
    engine.submit(queued)
    engine.step()
    for request_id in ("decoding", "prefilling", "queued"):
        assert [type(event) for event in engine.abort(request_id)] == [Finished]
        assert engine.abort(request_id) == []
    assert engine.is_idle
    assert not backend.samplers


def test_a_new_request_starts_while_another_decodes() -> None:
    engine = core(FakeBackend())
    engine.submit(submit("a", request_id="old", max_tokens=20))
    engine.step()
    engine.submit(submit("1", request_id="new", max_tokens=1))
    assert {event.request_id for event in engine.step()} == {"old", "new"}


def test_damaged_weights_fail_their_request_and_no_other() -> None:
    events = run(core(FakeBackend()), submit("!", request_id="bad"), submit("a", request_id="good", max_tokens=3))
    assert Failed("bad", "engine_error", "the fake model is damaged") in events
    assert Finished("good", n_prompt=1, n_cached=0, n_completion=3) in events


def test_a_full_cache_is_freed_and_the_step_planned_again() -> None:
    backend = FakeBackend()
    engine = core(backend)
    run(engine, submit("kept"))
    backend.errors = [KVCacheFull("full")]
    assert text(run(engine, submit("a", max_tokens=3))) == "bcd"


def test_a_cache_that_stays_full_fails_the_request() -> None:
    backend = FakeBackend()
    engine = core(backend)
    backend.errors = [KVCacheFull("full")]
    events = run(engine, submit("a", request_id="r"))
    assert events[-1] == Failed("r", "engine_error", "full")


def test_two_requests_survive_a_full_cache_by_preemption() -> None:
    backend = FakeBackend()
    engine = core(backend)
    backend.errors = [KVCacheFull("full")]
    events = run(engine, submit("a", request_id="1", max_tokens=3), submit("m", request_id="2", max_tokens=3))
    assert [event.text for event in events if isinstance(event, Piece) and event.request_id == "2"] == list("nop")


def test_a_cache_that_stays_full_does_not_keep_the_engine_busy_for_ever() -> None:
    backend = FakeBackend()
    backend.errors = [KVCacheFull("full")] * 3
    engine = core(backend)
    events = run(engine, submit("a", request_id="1"), submit("m", request_id="2"))
    assert Failed("1", "engine_error", "full") in events
    assert len([event for event in events if isinstance(event, Finished | Failed)]) == 2


def test_a_bad_batch_fails_its_requests_and_the_next_one_works() -> None:
    backend = FakeBackend()
    engine = core(backend)
    backend.errors = [BadBatch("bad")]
    assert isinstance(run(engine, submit("a"))[-1], Failed)
    assert not backend.samplers
    assert text(run(engine, submit("a", max_tokens=2))) == "bc"


def test_a_failure_of_one_sequence_ends_its_request_once() -> None:
    events = run(core(FakeBackend()), submit("!", request_id="r", n=3))
    assert events == [Accepted("r", 1), Failed("r", "engine_error", "the fake model is damaged")]


def test_a_prompt_of_several_steps_reports_its_progress() -> None:
    events = run(core(FakeBackend(), n_batch=4), submit("1" * 10, request_id="r", n=2, max_tokens=1))
    assert [event for event in events if isinstance(event, Progress)] == [Progress("r", 4, 10), Progress("r", 8, 10)]


def test_the_times_of_a_request_are_those_of_the_clock() -> None:
    times = iter(range(100))
    engine = EngineCore(FakeBackend(), n_batch=4, max_running=1, prefix_reuse=True, now=lambda: float(next(times)))
    engine.submit(submit("1" * 8, request_id="r", max_tokens=3))  # at 0
    engine.step()  # from 1 to 2
    engine.step()  # from 3 to 4, first token
    engine.step()  # from 5 to 6
    finished = engine.step()[-1]  # from 7 to 8
    assert finished == Finished("r", 8, 0, 3, queue_s=1.0, prefill_s=3.0, decode_s=4.0)


def test_tokens_to_text_and_back() -> None:
    engine = core(FakeBackend())
    assert engine.tokenize(Tokenize("r", (PromptPart("ab", True),))) == [Tokenized("r", (97, 98))]
    assert engine.detokenize(Detokenize("r", (97, 0))) == [Detokenized("r", "a<|end|>")]
    (refused,) = engine.detokenize(Detokenize("r", (300,)))
    assert isinstance(refused, Failed)


def test_stopping_fails_all_that_is_open_once() -> None:
    engine = core(FakeBackend())
    for request_id in ("1", "2"):
        engine.submit(submit(request_id=request_id, n=2))
    engine.step()
    events = engine.abort_all("engine_unavailable", "bye")
    assert events == [Failed("1", "engine_unavailable", "bye"), Failed("2", "engine_unavailable", "bye")]
    assert engine.is_idle


def test_logprobs_come_with_their_pieces() -> None:
    events = run(core(FakeBackend()), submit("a", max_tokens=2, top_logprobs=0))
    pieces = [event for event in events if isinstance(event, Piece)]
    assert [[record.token for record in piece.logprobs] for piece in pieces] == [[b"b"], [b"c"]]
