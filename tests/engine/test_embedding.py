from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from appliance.engine.backend import BadBatch
from appliance.engine.embedding import MAX_TOKEN_BYTES, EmbeddingCore
from appliance.engine.messages import (
    MAX_EMBEDDED,
    Accepted,
    Detokenize,
    Detokenized,
    Embed,
    Embedded,
    Event,
    Failed,
    Progress,
    PromptPart,
    Submit,
    Tokenize,
    Tokenized,
)
from tests.fake_embedder import BEGIN, END, FakeEmbedder, vector


def core(embedder: FakeEmbedder, *, n_batch: int = 16, now: Callable[[], float] = lambda: 0.0) -> EmbeddingCore:
    return EmbeddingCore(embedder, n_batch=n_batch, now=now)


def run(engine: EmbeddingCore, *messages: Embed) -> list[Event]:
    """All events until the engine is idle."""
    events = [event for message in messages for event in engine.submit(message)]
    while not engine.is_idle:
        events += engine.step()
    return events


def ends(events: list[Event]) -> dict[str, Embedded]:
    return {event.request_id: event for event in events if isinstance(event, Embedded)}


def texts_of(embedder: FakeEmbedder) -> list[list[str]]:
    """Of each step."""
    return [[bytes(tokens[1:-1]).decode() for tokens in batch] for batch in embedder.batches]


def expected(*texts: str) -> bytes:
    return b"".join(vector(list(text.encode())) for text in texts)


def test_a_text_is_accepted_and_embedded() -> None:
    events = run(core(FakeEmbedder()), Embed("r", ("abc",)))
    assert events == [Accepted("r", 5), Embedded("r", expected("abc"), 4, (5,))]


def test_tokens_are_taken_as_they_are() -> None:
    embedder = FakeEmbedder()
    events = run(core(embedder), Embed("r", ((97, 98), (99,))))
    assert embedder.batches == [[[97, 98], [99]]]
    assert ends(events)["r"].n_tokens == (2, 1)


def test_a_step_takes_as_many_texts_as_have_room_and_vectors_keep_their_order() -> None:
    embedder = FakeEmbedder()
    events = run(core(embedder, n_batch=12), Embed("r", ("aa", "bb", "cc", "dd", "ee")))
    assert texts_of(embedder) == [["aa", "bb", "cc"], ["dd", "ee"]]
    assert ends(events)["r"].vectors == expected("aa", "bb", "cc", "dd", "ee")
    assert [event for event in events if isinstance(event, Progress)] == [Progress("r", 12, 20)]


def test_texts_of_several_requests_are_in_one_step() -> None:
    embedder = FakeEmbedder()
    events = run(core(embedder), *(Embed(name, (name,)) for name in "abcd"))
    assert texts_of(embedder) == [["a", "b", "c", "d"]]
    assert {name: end.vectors for name, end in ends(events).items()} == {name: expected(name) for name in "abcd"}


def test_a_text_that_is_longer_than_a_step_is_computed_alone() -> None:
    embedder = FakeEmbedder(n_ctx=32)
    run(core(embedder, n_batch=8), Embed("r", ("a" * 20, "b")))
    assert texts_of(embedder) == [["a" * 20], ["b"]]


def test_no_step_has_more_texts_than_the_backend_takes() -> None:
    embedder = FakeEmbedder()
    engine = core(embedder, n_batch=10_000)
    run(engine, Embed("first", ("a" * 30,) * 4))  # before a step was measured, they are short
    run(engine, Embed("r", ("a",) * (MAX_EMBEDDED + 1)))
    assert [len(batch) for batch in embedder.batches[-2:]] == [MAX_EMBEDDED, 1]


def test_on_a_slow_machine_a_step_is_as_long_as_others_may_wait() -> None:
    embedder = FakeEmbedder()
    # The clock is read at a request's arrival, and at a step's beginning and end: 64 tokens take as many seconds.
    times = itertools.count(step=64.0)
    run(core(embedder, n_batch=512, now=lambda: next(times)), Embed("r", ("a" * 30,) * 16))
    assert {len(batch) for batch in embedder.batches} == {2}
    fast = FakeEmbedder()
    run(core(fast, n_batch=512), Embed("r", ("a" * 30,) * 18))
    assert [len(batch) for batch in fast.batches] == [2, 16]


def test_a_short_request_gets_between_the_texts_of_a_long_one_of_the_same_key() -> None:
    embedder = FakeEmbedder()
    engine = core(embedder, n_batch=6)
    engine.submit(Embed("long", ("aa",) * 10))
    engine.step()
    engine.submit(Embed("short", ("b",)))
    assert ends(engine.step()).keys() == {"short"}


def test_a_key_that_was_served_less_comes_first() -> None:
    embedder = FakeEmbedder()
    engine = core(embedder, n_batch=6)
    for number in range(3):
        engine.submit(Embed(f"a{number}", ("aa", "aa"), key="a"))
    engine.submit(Embed("b", ("bb",), key="b"))
    engine.step()
    engine.step()
    assert ["bb"] in [batch[:1] for batch in texts_of(embedder)[:2]]


def test_the_batch_class_waits_for_the_others() -> None:
    embedder = FakeEmbedder()
    run(core(embedder, n_batch=3), Embed("late", ("a",), is_batch=True), Embed("first", ("b",)))
    assert texts_of(embedder) == [["b"], ["a"]]


@pytest.mark.parametrize(
    ("inputs", "code", "words"),
    [
        (("a" * 40,), "context_length_exceeded", "the input has 42 tokens; this model embeds texts of at most 32"),
        (("a", "b" * 40), "context_length_exceeded", "input 1 has 42 tokens"),
        (("a" * (32 * MAX_TOKEN_BYTES + 1),), "context_length_exceeded", "the input has 8193 bytes"),
        (((97,), (300,)), "invalid_value", "input 1: token 300 is not in the vocabulary (0 to 255)"),
        (((97,), ()), "invalid_value", "input 1 is empty"),
        ((), "invalid_value", "there is no input"),
    ],
)
def test_what_cannot_be_embedded_is_refused_with_numbers(
    inputs: tuple[str | tuple[int, ...], ...], code: str, words: str
) -> None:
    (event,) = core(FakeEmbedder()).submit(Embed("r", inputs))
    assert isinstance(event, Failed)
    assert (event.code, event.param) == (code, "input")
    assert words in event.message


def test_a_text_as_long_as_the_context_is_embedded() -> None:
    assert ends(run(core(FakeEmbedder(n_ctx=32)), Embed("r", ("a" * 30,))))["r"].n_tokens == (32,)


def test_a_request_for_text_is_refused() -> None:
    (event,) = core(FakeEmbedder()).submit(Submit("r"))
    assert isinstance(event, Failed)
    assert "/v1/embeddings" in event.message


def test_an_abort_ends_a_request_between_its_steps() -> None:
    embedder = FakeEmbedder()
    engine = core(embedder, n_batch=4)
    engine.submit(Embed("r", ("aa",) * 5))
    engine.step()
    assert engine.abort("r") == [Embedded("r", b"", 4, ())]
    assert engine.is_idle
    assert engine.abort("r") == []


def test_a_batch_that_is_refused_fails_its_requests_only() -> None:
    embedder = FakeEmbedder()
    engine = core(embedder, n_batch=4)
    embedder.errors = [BadBatch("no")]
    events = run(engine, Embed("a", ("aa",)), Embed("b", ("bb",)))
    assert [(event.request_id, type(event)) for event in events[2:]] == [("a", Failed), ("b", Embedded)]


def test_a_model_that_computes_no_numbers_fails_that_request_only() -> None:
    events = run(core(FakeEmbedder()), Embed("a", ("a", "!")), Embed("b", ("b",)))
    failed = [event for event in events if isinstance(event, Failed)]
    assert [(event.request_id, event.code) for event in failed] == [("a", "engine_error")]
    assert "damaged" in failed[0].message
    assert ends(events).keys() == {"b"}


def test_tokens_can_be_asked_for() -> None:
    engine = core(FakeEmbedder())
    parts = (PromptPart("ab", True), PromptPart("c", True))
    assert engine.tokenize(Tokenize("t", parts)) == [Tokenized("t", (BEGIN, 97, 98, 99, END))]
    assert engine.detokenize(Detokenize("d", (BEGIN, 97))) == [Detokenized("d", "<s>a")]


def test_whatever_happens_each_request_has_one_end() -> None:
    draw = random.Random(5)
    for _ in range(30):
        embedder = FakeEmbedder()
        n_batch = draw.randint(3, 20)
        engine = core(embedder, n_batch=n_batch)
        events: list[Event] = []
        names: list[str] = []
        for number in range(60):
            match draw.randint(0, 5):
                case 0 | 1:
                    names.append(f"r{number}")
                    inputs = tuple("x" * draw.randint(0, 33) for _ in range(draw.randint(0, 6)))
                    events += engine.submit(Embed(names[-1], inputs, key=draw.choice("abc"), is_batch=number % 7 == 0))
                case 2 if names:
                    events += engine.abort(draw.choice(names))
                case 3 if draw.random() < 0.2:
                    embedder.errors.append(BadBatch("no"))
                case _ if not engine.is_idle:
                    events += engine.step()
        events += engine.abort_all("engine_unavailable", "stopping")
        terminal = [event.request_id for event in events if isinstance(event, Embedded | Failed)]
        assert sorted(terminal) == sorted(names)
        assert engine.is_idle
        assert all(sum(map(len, batch)) <= n_batch or len(batch) == 1 for batch in embedder.batches)
