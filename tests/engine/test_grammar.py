"""Answers that follow a grammar, over the fake model: it says the alphabet, unless the grammar wants something else."""

from __future__ import annotations

import threading

import pytest

from appliance.engine import grammar as grammar_module
from appliance.engine.control_tokens import special_token
from appliance.engine.core import EngineCore
from appliance.engine.grammar import MAX_KEPT
from appliance.engine.messages import (
    Accepted,
    Event,
    Failed,
    Finished,
    Piece,
    SequenceFinished,
    Submit,
)
from appliance.engine.sequence import MAX_FORCED
from appliance.errors import InvalidRequest
from tests.factories import submit
from tests.fake_backend import FakeBackend


class Engine:
    """An engine over the fake model, and what it says."""

    def __init__(self, backend: FakeBackend | None = None, *, n_batch: int = 64) -> None:
        self.compiled = threading.Semaphore(0)
        self.backend = backend or FakeBackend()
        self.core = EngineCore(
            self.backend, n_batch=n_batch, max_running=4, prefix_reuse=True, on_ready=self.compiled.release
        )

    def run(self, *messages: Submit) -> list[Event]:
        """All events until nothing is left to do."""
        events = [event for message in messages for event in self.core.submit(message)]
        while self.core.load.n_waiting or not self.core.is_idle:
            if self.core.is_idle:
                assert self.compiled.acquire(timeout=10)
            events += self.core.submit_ready()
            events += self.core.step()
        return events

    def answer(
        self, grammar: str, prompt: str = "a", *, max_tokens: int | None = 100, **fields: object
    ) -> tuple[str, str]:
        """The text and why it ended."""
        return outcome(self.run(submit(prompt, grammar=grammar, max_tokens=max_tokens, **fields)))  # type: ignore[arg-type]


def outcome(events: list[Event], index: int = 0) -> tuple[str, str]:
    text = "".join(event.text for event in events if isinstance(event, Piece) and event.index == index)
    (reason,) = [e.finish_reason for e in events if isinstance(e, SequenceFinished) and e.index == index]
    return text, reason


@pytest.mark.parametrize(
    ("grammar", "prompt", "text"),
    [
        ("start: /[a-e]+/", "a", "bcdeabcd"),  # the model's own as far as they are allowed
        ('start: "yes" | "no"', "a", "no"),
        ("start: /[0-9]{3}-[0-9]{2}/", "a", "000-00"),
        ("start: /[p-z]{3}/", "q", "rst"),
        ('start: "{\\"name\\":\\"" /[a-z]{2}/ "\\"}"', "a", '{"name":"ab"}'),
        ('start: "straße " /[a-b]/', "a", "straße a"),
    ],
)
def test_the_text_follows_the_grammar(grammar: str, prompt: str, text: str) -> None:
    assert Engine().answer(grammar, prompt, max_tokens=8 if "[a-e]+" in grammar else 100)[0] == text


def test_an_answer_ends_with_stop_as_soon_as_nothing_may_follow() -> None:
    engine = Engine()
    assert engine.answer('start: "x" /[a-c]/ "yz"') == ("xayz", "stop")
    # The end needed no step of its own.
    assert engine.core.load.n_sampled == 2


def test_what_the_grammar_forces_is_not_sampled() -> None:
    engine = Engine()
    events = engine.run(submit("a", grammar=f'start: /[ab]/ "{"-" * 20}" /[ab]/', max_tokens=100))
    assert outcome(events) == ("b" + "-" * 20 + "a", "stop")
    assert engine.core.load.n_sampled == 2
    assert [event.n_completion for event in events if isinstance(event, Finished)] == [22]
    assert max(chunk.n_tokens for plan in engine.backend.steps for chunk in plan.chunks) == 21


def test_no_step_has_more_than_fits_whatever_is_forced() -> None:
    engine = Engine(FakeBackend(n_ctx=1000, n_ctx_train=1000), n_batch=12)
    grammar = f'start: /[ab]/ "{"-" * 100}" /[ab]/'
    events = engine.run(*(submit("a" * n, grammar=grammar, max_tokens=200) for n in range(1, 5)))
    assert all(plan.n_tokens <= 12 for plan in engine.backend.steps)
    assert {len(event.text) for event in events if isinstance(event, Piece)} <= set(range(MAX_FORCED + 2))
    assert [event.n_completion for event in events if isinstance(event, Finished)] == [102] * 4


@pytest.mark.parametrize("max_tokens", [1, 3, 4])
def test_an_answer_that_is_cut_ends_with_length_also_among_forced_tokens(max_tokens: int) -> None:
    assert Engine().answer('start: /[ab]/ "12345"', max_tokens=max_tokens) == ("b12345"[:max_tokens], "length")


def test_an_answer_that_is_complete_at_its_last_token_was_not_cut() -> None:
    assert Engine().answer('start: /[ab]/ "123"', max_tokens=4) == ("b123", "stop")


def test_a_context_that_is_full_ends_forced_tokens() -> None:
    engine = Engine(FakeBackend(n_ctx=20, n_ctx_train=20))
    assert engine.answer(f'start: /[ab]/ "{"-" * 50}"', max_tokens=None) == ("b" + "-" * 18, "length")
    assert engine.answer('start: "again"') == ("again", "stop")


def test_a_stop_string_among_forced_tokens_ends_the_answer() -> None:
    assert Engine().answer('start: /[ab]/ "12345"', stop=("34",)) == ("b12", "stop")


def test_each_of_several_answers_follows_it() -> None:
    events = Engine().run(submit("a", grammar='start: "x" /[a-c]/ "z"', n=3))
    assert [outcome(events, index) for index in range(3)] == [("xaz", "stop")] * 3


def test_one_that_wants_log_probabilities_gets_one_for_each_token() -> None:
    events = Engine().run(submit("a", grammar='start: "xyz" /[a-c]/ "12"', top_logprobs=0, max_tokens=10))
    assert outcome(events) == ("xyza12", "stop")
    assert sum(len(event.logprobs) for event in events if isinstance(event, Piece)) == 6


def test_ignore_eos_can_not_lead_past_the_end() -> None:
    assert Engine().answer('start: "x" /[ab]/', ignore_eos=True) == ("xa", "stop")


def test_a_sequence_that_made_way_goes_on_where_it_was() -> None:
    engine = Engine(FakeBackend(n_ctx=40, n_ctx_train=40), n_batch=16)
    grammar = 'start: ("ab" | "cd" | "-")+ "." /[0-9]{6}/'
    texts = [f"{letter}-" for letter in "pqrs"]
    events = engine.run(*(submit(text, request_id=text, grammar=grammar, max_tokens=18) for text in texts))
    assert engine.core.load.n_preempted > 0
    alone = [outcome(Engine().run(submit(text, grammar=grammar, max_tokens=18))) for text in texts]
    assert [outcome([e for e in events if e.request_id == text]) for text in texts] == alone


def test_a_grammar_that_is_none_is_refused_with_the_reason_and_others_go_on() -> None:
    engine = Engine()
    events = engine.run(submit("a", request_id="bad", grammar="start: (foo"), submit("a", request_id="good"))
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert (failed.request_id, failed.code) == ("bad", "invalid_value")
    assert "start: (foo" in failed.message
    assert outcome([event for event in events if event.request_id == "good"])[0] == "bcde"


def test_a_grammar_that_is_refused_again_and_again_keeps_nothing_of_the_requests() -> None:
    engine = Engine()
    engine.run(submit("a", grammar="start: (foo"))
    lengths = []
    for _ in range(3):
        with pytest.raises(InvalidRequest) as refused:
            engine.core._grammars.get("start: (foo")
        lengths.append(len(refused.traceback))
    assert len(set(lengths)) == 1


def test_a_grammar_that_gets_too_complex_fails_its_request_without_a_dump_of_it() -> None:
    engine = Engine()
    (failed,) = [e for e in engine.run(submit("a", grammar='start: "a" start')) if isinstance(e, Failed)]
    assert "can't be followed" in failed.message or "can't be compiled" in failed.message
    assert "<state>" not in failed.message
    assert outcome(engine.run(submit("a")))[0] == "bcde"


def test_what_is_too_large_from_its_beginning_is_refused_before_a_step() -> None:
    engine = Engine()
    (failed,) = engine.run(submit("a", grammar='start: "a"{1000000}'))
    assert isinstance(failed, Failed)
    assert failed.code == "invalid_value"
    assert not any(plan.chunks for plan in engine.backend.steps)
    assert "<state>" not in failed.message


def test_a_grammar_that_takes_too_long_is_refused_with_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.engine.grammar.MAX_COMPILE_S", 0.0)
    (failed,) = Engine().run(submit("a", grammar='start: "x"'))
    assert isinstance(failed, Failed)
    assert failed.code == "invalid_value"
    assert "0 s are allowed" in failed.message


def test_large_grammars_make_way_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.engine.grammar.MAX_KEPT_BYTES", 100_000.0)
    engine = Engine()
    large = 'start: "x" | /' + "y" * 3000 + "/"
    for grammar in (large, large.replace("y", "z"), 'start: "x"'):
        assert engine.answer(grammar)[0] == "x"
    assert large not in engine.core._grammars._compiled
    assert 'start: "x"' in engine.core._grammars._compiled


def test_whatever_goes_wrong_with_one_grammar_the_next_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    real = grammar_module.LLMatcher

    def make(tokenizer: object, grammar: str, **options: object) -> object:
        if "bad" in grammar:
            raise RuntimeError("no such thing")
        return real(tokenizer, grammar, **options)

    monkeypatch.setattr(grammar_module, "LLMatcher", make)
    engine = Engine()
    (failed,) = engine.run(submit("a", grammar='start: "bad"'))
    assert isinstance(failed, Failed)
    assert "no such thing" in failed.message
    assert engine.answer('start: "x"')[0] == "x"


def test_more_grammars_than_may_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_module, "MAX_UNDER_WAY", 0)
    (failed,) = Engine().run(submit("a", grammar='start: "x"'))
    assert isinstance(failed, Failed)
    assert failed.code == "engine_unavailable"
    assert "try again" in failed.message


def test_a_request_waits_for_its_grammar_and_others_do_not_wait_for_it() -> None:
    engine = Engine()
    kept_back = submit("a", request_id="kept back", grammar='start: "x"')
    assert engine.core.submit(kept_back) == []
    assert engine.core.load.n_waiting == 1
    assert outcome(engine.core.submit(submit("a")) + [e for _ in range(4) for e in engine.core.step()])[0] == "bcde"
    assert engine.compiled.acquire(timeout=10)
    assert engine.core.submit_ready() == [Accepted("kept back", 1)]
    # The next one with it doesn't wait at all.
    assert engine.core.submit(submit("a", request_id="next", grammar='start: "x"')) == [Accepted("next", 1)]


def test_a_request_whose_grammar_is_being_compiled_can_be_aborted() -> None:
    engine = Engine()
    engine.core.submit(submit("a", request_id="r", grammar='start: "x"'))
    assert engine.core.abort("r") == [Finished("r", 0, 0, 0)]
    assert engine.compiled.acquire(timeout=10)
    assert engine.core.submit_ready() == []


def test_an_engine_that_stops_fails_those_whose_grammar_is_being_compiled() -> None:
    engine = Engine()
    engine.core.submit(submit("a", request_id="r", grammar='start: "x"'))
    assert engine.core.abort_all("engine_unavailable", "stopping") == [Failed("r", "engine_unavailable", "stopping")]
    assert engine.core.load.n_waiting == 0


def test_more_grammars_than_are_kept_are_all_followed() -> None:
    engine = Engine()
    names = [f"g{number}" for number in range(MAX_KEPT + 10)]
    events = engine.run(*(submit("a", request_id=name, grammar=f'start: "{name}"', max_tokens=20) for name in names))
    assert {e.request_id: e.text for e in events if isinstance(e, Piece)} == {name: name for name in names}


def test_without_a_table_of_the_vocabulary_grammars_fail_and_all_else_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ValueError("no such vocabulary")

    backend = FakeBackend()
    monkeypatch.setattr(backend, "grammar_vocabulary", fail)
    engine = Engine(backend)
    (failed,) = engine.run(submit("a", grammar='start: "x"'))
    assert isinstance(failed, Failed)
    assert "no such vocabulary" in failed.message
    assert outcome(engine.run(submit("a")))[0] == "bcde"


def test_an_engine_that_ends_waits_until_nobody_looks_into_its_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend()
    make, order = backend.grammar_vocabulary, []
    is_looking, may_end = threading.Event(), threading.Event()

    def slowly() -> object:
        is_looking.set()
        assert may_end.wait(10)
        order.append("made")
        return make()

    def close() -> None:
        engine.core.close()
        order.append("closed")

    monkeypatch.setattr(backend, "grammar_vocabulary", slowly)
    engine = Engine(backend)
    engine.core.prepare_grammars()
    assert is_looking.wait(10)
    closing = threading.Thread(target=close)
    closing.start()
    may_end.set()
    closing.join(10)
    assert order == ["made", "closed"]


def test_control_tokens_are_written_as_llguidance_wants_them() -> None:
    assert special_token("<|python_tag|>") == "<|python_tag|>"
    assert special_token("[TOOL_CALLS]") == "<TOOL_CALLS>"
    assert special_token("<a [b] c>") == "<abc>"


def test_a_control_token_is_written_out_where_it_is_wanted() -> None:
    class Vocabulary(FakeBackend):
        """``c`` is a control token."""

        def piece(self, token: int) -> bytes:
            return b"" if token == ord("c") else super().piece(token)

        def token_name(self, token: int) -> bytes:
            return b"[MARK]" if token == ord("c") else super().token_name(token)

    def text(shown: tuple[str, ...]) -> str:
        message = Submit("r", tokens=(ord("a"),), max_tokens=3, shown_tokens=shown)
        return outcome(Engine(Vocabulary()).run(message))[0]

    assert (text(()), text(("[MARK]",)), text(("[OTHER]",))) == ("bd", "b[MARK]d", "bd")
