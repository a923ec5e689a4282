"""Models whose memory can't be cut go on from checkpoints: the same greedy text as without prefix reuse."""

from __future__ import annotations

import functools
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.engine import checkpoints
from appliance.engine.backend import Sampled
from appliance.engine.core import EngineCore
from appliance.engine.llama.backend import LlamaBackend
from appliance.engine.messages import EngineConfig, Event, Finished, Piece, PromptPart, Submit, TokenLogprob
from appliance.engine.params import SamplingParams
from appliance.engine.step import StepPlan
from tests.model.engines import engine, finished, run
from tests.tiny_models import WINDOW, engine_config, tokens_of, write_model
from tests.warm_engine import Engine

# llama.cpp's attention rounds to F16, and how depends on what else is in a step: 0.004 nat at most in these models.
TOLERANCE = 0.02

Answer = list[TokenLogprob]


class RecordingBackend(LlamaBackend):
    """Knows each sequence's answer: its text doesn't tell whether a space was one token or the other."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self.answers: defaultdict[tuple[str, int], list[int]] = defaultdict(list)

    def run(self, plan: StepPlan, lane: int) -> list[Sampled]:
        sampled = super().run(plan, lane)
        wanting = (chunk.sequence for chunk in plan.chunks if chunk.wants_logits)
        for sequence, result in zip(wanting, sampled, strict=True):
            self.answers[sequence.request_id, sequence.index].append(result.token)
        return sampled


class Model:
    """A loaded tiny model, and what it says without prefix reuse, which another context computes."""

    def __init__(self, backend: RecordingBackend, reference: LlamaBackend) -> None:
        self.backend = backend
        self._reference = reference
        self.recomputed = functools.cache(self._recomputed)

    def core(self) -> EngineCore:
        self.backend.answers.clear()
        return engine(self.backend, n_batch=256)

    def _recomputed(self, prompt: tuple[int, ...], n_tokens: int) -> Answer:
        message = ask(prompt, n_tokens)
        events = run(engine(self._reference, n_batch=256, prefix_reuse=False), message)[message.request_id]
        assert finished(events).n_cached == 0
        return answer_of(events)

    def check(self, message: Submit, events: list[Event]) -> Finished:
        """Its answers are those without prefix reuse."""
        assert message.max_tokens is not None
        expected = self.recomputed(message.tokens, message.max_tokens)
        for index in range(message.n):
            same(answer_of(events, index), expected)
        return finished(events)

    def with_answer(self, message: Submit) -> tuple[int, ...]:
        """The prompt and its first answer, as far as that has come."""
        return (*message.tokens, *self.backend.answers[message.request_id, 0])


def prompt_of(seed: int, n_tokens: int, common: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Printable characters, drawn by ``seed``, behind those in ``common``."""
    drawn = random.Random(seed)
    return common + tuple(3 + drawn.randrange(32, 127) for _ in range(n_tokens))


_numbers = itertools.count()


def ask(prompt: tuple[int, ...], n_tokens: int = 24, *, name: str = "", n: int = 1) -> Submit:
    return Submit(
        name or f"r{next(_numbers)}",
        tokens=prompt,
        params=SamplingParams(temperature=0),
        max_tokens=n_tokens,
        n=n,
        ignore_eos=True,
        top_logprobs=2,
    )


def answer_of(events: list[Event], index: int = 0) -> Answer:
    pieces = (event for event in events if isinstance(event, Piece) and event.index == index)
    return [one for piece in pieces for one in piece.logprobs]


def same(answer: Answer, expected: Answer) -> None:
    """Until a token that hardly leads the next best one: from there on, two texts are as right."""
    leads = [one.top[0][1] - one.top[1][1] for one in expected]
    n_certain = next((n for n, lead in enumerate(leads) if lead < 2 * TOLERANCE), len(expected))
    assert len(answer) == len(expected)
    assert [one.token for one in answer[:n_certain]] == [one.token for one in expected[:n_certain]]
    expected_logprobs = [one.logprob for one in expected[: n_certain + 1]]
    if n_certain == len(expected) or answer[n_certain].token == expected[n_certain].token:
        assert [one.logprob for one in answer[: n_certain + 1]] == pytest.approx(expected_logprobs, abs=TOLERANCE)


def of(events: list[Event], request_id: str) -> list[Event]:
    return [event for event in events if event.request_id == request_id]


def to_the_end(core: EngineCore) -> list[Event]:
    events: list[Event] = []
    while not core.is_idle:
        events += core.step()
    return events


def check_integrity(core: EngineCore) -> None:
    for lane in core._lanes:
        lane.scheduler.check_integrity()


@pytest.fixture(scope="module", params=["sliding", "recurrent", "hybrid"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def path(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / f"{kind}.gguf", kind)


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Model]:
    with RecordingBackend(engine_config(path)) as backend, LlamaBackend(engine_config(path)) as reference:
        yield Model(backend, reference)


@pytest.fixture(scope="module")
def small(path: Path) -> Iterator[Model]:
    """With a context that three sequences fill."""
    with RecordingBackend(engine_config(path, n_ctx=512)) as backend, LlamaBackend(engine_config(path)) as reference:
        yield Model(backend, reference)


@pytest.fixture
def serve(model: Model) -> Callable[[Submit], Finished]:
    """Runs one request alone, checks its answer, and says how it ended; all in one engine."""
    core = model.core()
    return lambda message: model.check(message, run(core, message)[message.request_id])


def test_its_memory_cant_be_cut(model: Model) -> None:
    info = model.backend.info
    assert not info.can_cut_prefix
    assert not info.exact_reuse


def test_its_tokens_are_known_without_it(model: Model) -> None:
    text = "Über a line\nand <s> another"
    assert model.backend.tokenize((PromptPart(text, False),)) == tokens_of(text)


def test_the_same_prompt_again_computes_its_last_token_only(serve: Callable[[Submit], Finished]) -> None:
    prompt = prompt_of(1, 300)
    assert [serve(ask(prompt)).n_cached for _ in range(3)] == [0, 299, 299]


def test_answers_to_one_prompt_share_its_computation(model: Model) -> None:
    core = model.core()
    message = ask(prompt_of(2, 300), n=4)
    model.check(message, run(core, message)[message.request_id])
    assert core.load.n_prompt_reused == 3 * 299


def test_a_short_prompt_is_shared_by_its_answers_too(model: Model) -> None:
    core = model.core()
    message = ask(prompt_of(3, 9), n=3)
    model.check(message, run(core, message)[message.request_id])
    assert core.load.n_prompt_reused == 2 * 8


def test_a_chats_next_turns_go_on_where_the_last_one_ended(model: Model, serve: Callable[[Submit], Finished]) -> None:
    prompt = prompt_of(4, 200)
    for turn in range(3):
        message = ask(prompt)
        assert serve(message).n_cached == (len(prompt) - 31 if turn else 0)
        prompt = prompt_of(40 + turn, 30, model.with_answer(message))


def test_the_last_turn_can_be_asked_anew(model: Model, serve: Callable[[Submit], Finished]) -> None:
    """What a turn goes on from is still there after it."""
    first = ask(prompt_of(5, 200))
    serve(first)
    so_far = model.with_answer(first)
    for seed in (50, 51, 52):
        assert serve(ask(prompt_of(seed, 30, so_far))).n_cached == len(so_far) - 1


def test_a_common_beginning_is_found_in_part_and_then_whole(serve: Callable[[Submit], Finished]) -> None:
    common = prompt_of(6, 600)
    assert [serve(ask(prompt_of(seed, 100, common))).n_cached for seed in (60, 61, 62)] == [0, 512, 600]


def test_prompts_that_diverge_in_the_middle(serve: Callable[[Submit], Finished]) -> None:
    common = prompt_of(7, 400)
    assert [serve(ask(prompt_of(seed, 300, common))).n_cached for seed in (70, 71, 72)] == [0, 256, 400]


def test_prompts_that_come_together_share_their_beginning(model: Model) -> None:
    core = model.core()
    common = prompt_of(8, 600)
    messages = [ask(prompt_of(80 + number, 50, common)) for number in range(4)]
    results = run(core, *messages)
    ended = [model.check(message, results[message.request_id]) for message in messages]
    assert [one.n_cached for one in ended] == [0, 600, 600, 600]


def test_several_at_once_in_mixed_order(model: Model) -> None:
    core = model.core()
    common = prompt_of(9, 300)
    messages = [
        ask(common, 40, name="long", n=2),
        ask(prompt_of(90, 5), 10, name="short"),
        ask(prompt_of(91, 200, common), name="behind it"),
        ask(prompt_of(92, 200, common[:150]), name="half"),
        ask(common, 30, name="again"),
    ]
    for order in (messages, messages[::-1]):
        results = run(core, *order)
        for message in messages:
            model.check(message, results[message.request_id])
    check_integrity(core)


def test_an_answer_beyond_the_window_and_what_follows_it(model: Model, serve: Callable[[Submit], Finished]) -> None:
    message = ask(prompt_of(10, 20), 4 * WINDOW)
    serve(message)
    behind = prompt_of(100, 20, model.with_answer(message))
    assert serve(ask(behind)).n_cached == len(behind) - 21


def test_an_abort_in_the_middle_leaves_a_prompt_to_go_on_from(model: Model) -> None:
    core = model.core()
    gone = ask(prompt_of(11, 1000), name="gone")
    other = ask(prompt_of(110, 50), 60, name="other")
    events = [*core.submit(gone), *core.submit(other), *core.step(), *core.step(), *core.step()]
    events += core.abort("gone")
    again = ask(gone.tokens, name="again")
    events += core.submit(again)
    events += to_the_end(core)
    assert not [event for event in events if isinstance(event, Piece) and event.request_id == "gone"]
    model.check(other, of(events, "other"))
    assert model.check(again, of(events, "again")).n_cached >= 256


def test_a_sequence_that_made_way_goes_on_with_the_same_answer(small: Model) -> None:
    core = small.core()
    messages = [ask(prompt_of(120 + number, 110), 80) for number in range(4)]
    results = run(core, *messages)
    for message in messages:
        small.check(message, results[message.request_id])
    assert core.load.n_preempted > 0
    check_integrity(core)


def test_a_seeded_answer_is_the_same_each_time(path: Path) -> None:
    """With two threads, each of its tokens is computed beside another one, in a slot that is freed behind it."""
    seeded = msgspec.structs.replace(ask(prompt_of(13, 100)), params=SamplingParams(temperature=1, seed=5))
    with LlamaBackend(engine_config(path, n_threads=2, n_threads_batch=2)) as backend:
        core = engine(backend, n_batch=256)
        first, again = (run(core, seeded)[seeded.request_id] for _ in range(2))
        run(core, ask(seeded.tokens))
        last = run(core, seeded)[seeded.request_id]
    assert answer_of(first) == answer_of(again) == answer_of(last)
    assert {finished(events).n_cached for events in (first, again, last)} == {0}


def test_what_an_earlier_process_computed_is_gone_on_from(model: Model, path: Path, tmp_path: Path) -> None:
    """Its own beginning in another context: a turn behind it, and the same prompt again."""
    message = ask(prompt_of(14, 300))
    model.core()
    before = Engine(tmp_path, model=model.backend, max_bytes=1 << 30)
    model.check(message, before.run(message))
    before.rest()
    behind = ask(prompt_of(140, 30, model.with_answer(message)))
    again = ask(message.tokens)
    with LlamaBackend(engine_config(path)) as backend:
        after = Engine(tmp_path, model=backend, max_bytes=1 << 30)
        assert model.check(behind, after.run(behind)).n_cached == len(behind.tokens) - 31
        assert model.check(again, after.run(again)).n_cached == 299
        check_integrity(after.core)


COMMON = prompt_of(200, 150)
# They share beginnings of several lengths, two of them all but their ends.
PROMPTS = [prompt_of(210 + number, 12, COMMON[:n]) for number, n in enumerate([0, 40, 40, 90, 138, 150, 150])]
N_TOKENS = 12
COMMANDS = st.one_of(
    st.tuples(st.just("submit"), st.sampled_from(PROMPTS), st.integers(1, N_TOKENS), st.integers(1, 2)),
    st.tuples(st.just("go on"), st.integers(0, 5)),
    st.tuples(st.just("abort"), st.integers(0, 5)),
    st.tuples(st.just("step"), st.integers(1, 6)),
)


@settings(max_examples=20)
@given(st.lists(COMMANDS, max_size=30))
def test_whatever_comes_in_whatever_order(small: Model, commands: list[tuple[Any, ...]]) -> None:
    with mock.patch.multiple(checkpoints, FIRST=16, MIN_TOKENS=4):
        core = small.core()
        messages: list[Submit] = []
        events: list[Event] = []
        for command in commands:
            match command:
                case "submit", prompt, n_tokens, n:
                    messages.append(ask(prompt, n_tokens, n=n))
                    events += core.submit(messages[-1])
                case "go on", number if number < len(messages):
                    prompt = (*small.with_answer(messages[number]), *PROMPTS[0])
                    if len(prompt) < 300:
                        messages.append(ask(prompt, N_TOKENS))
                        events += core.submit(messages[-1])
                case "abort", number if number < len(messages):
                    events += core.abort(messages[number].request_id)
                case "step", n_steps:
                    for _ in range(n_steps):
                        if not core.is_idle:
                            events += core.step()
                    check_integrity(core)
        events += to_the_end(core)
        check_integrity(core)
        for message in messages:
            expected = small.recomputed(message.tokens, N_TOKENS)
            for index in range(message.n):
                answer = answer_of(of(events, message.request_id), index)  # cut short where it was aborted
                same(answer, expected[: len(answer)])
