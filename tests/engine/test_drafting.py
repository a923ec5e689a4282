"""The engine's loop with a draft model, over a model that repeats the alphabet."""

from __future__ import annotations

import threading

import pytest

from appliance.engine.core import EngineCore
from appliance.engine.messages import Event, Submit
from appliance.engine.params import SamplingParams
from appliance.engine.sequence import Sequence
from tests.engine.test_core import finish_reasons, run, text
from tests.factories import submit
from tests.fake_backend import FakeBackend
from tests.fake_drafter import FakeDrafter

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Engine:
    """``core`` with a drafter, and what each step was planned to guess."""

    def __init__(self, drafter: FakeDrafter, *, step_s: float = 0.0, **backend: int) -> None:
        """A step takes ``step_s``, whatever is in it."""
        self.drafter = drafter
        self.backend = FakeBackend(**backend)
        self.backend.drafter = drafter
        self._step_s = step_s
        self.core = EngineCore(
            self.backend, n_batch=64, max_running=4, prefix_reuse=True, speculation=True, now=self._now
        )

    def run(self, *messages: Submit) -> list[Event]:
        events = run(self.core, *messages)
        for lane in self.core._lanes:
            lane.scheduler.check_integrity()
        assert not self.drafter.n_computed, "a sequence has ended and is not forgotten"
        return events

    @property
    def n_guessed(self) -> list[int]:
        return [sum(len(chunk.draft) for chunk in plan.chunks) for plan in self.backend.steps]

    def _now(self) -> float:
        return self.drafter.clock + self._step_s * len(self.backend.steps)


def test_what_is_not_in_the_prompt_is_guessed_by_the_draft_model() -> None:
    engine = Engine(FakeDrafter())
    events = engine.run(submit("1", max_tokens=20))
    assert text(events) == LETTERS[:20]
    assert len(engine.backend.steps) < 6
    assert engine.core.load.n_draft_accepted == engine.core.load.n_drafted > 12
    assert engine.core.load.n_sampled == 20


def test_wrong_guesses_change_nothing() -> None:
    engine = Engine(FakeDrafter(wrong_behind="cgmt"))
    events = engine.run(submit("1", max_tokens=25))
    assert text(events) == LETTERS[:25]
    assert 0 < engine.core.load.n_draft_accepted < engine.core.load.n_drafted
    assert text(engine.run(submit("1abcdefg", max_tokens=3))) == "hij"


def test_where_the_prompt_tells_how_it_goes_on_the_draft_model_is_not_asked() -> None:
    engine = Engine(FakeDrafter())
    engine.run(submit("abcdefghijklmnop. abcdefg", max_tokens=9))
    assert engine.core.load.n_draft_accepted > 0
    assert not any(engine.drafter.asked)


@pytest.mark.parametrize("max_tokens", range(1, 7))
def test_nothing_is_guessed_beyond_the_last_token_that_may_be(max_tokens: int) -> None:
    engine = Engine(FakeDrafter())
    events = engine.run(submit("1", max_tokens=max_tokens))
    assert (text(events), finish_reasons(events)) == (LETTERS[:max_tokens], ["length"])
    assert engine.core.load.n_drafted <= max(0, max_tokens - 2)


def test_an_end_and_a_stop_string_among_guesses_end_the_text() -> None:
    engine = Engine(FakeDrafter())
    assert text(engine.run(submit("t", max_tokens=30))) == "uvwxyz"
    events = engine.run(submit("1", max_tokens=30, stop=("no",)))
    assert (text(events), finish_reasons(events)) == ("abcdefghijklm", ["stop"])


def test_guesses_are_made_for_all_at_once_and_no_step_has_more_than_the_backend_can() -> None:
    engine = Engine(FakeDrafter())
    events = engine.run(submit("1", max_tokens=12, n=3))
    assert [text(events, index) for index in range(3)] == [LETTERS[:12]] * 3
    assert max(len(asked) for asked in engine.drafter.asked) == 3
    outputs = [sum(1 + len(c.draft) for c in plan.chunks if c.wants_logits) for plan in engine.backend.steps]
    assert max(outputs) <= engine.backend.info.n_outputs


def test_guesses_of_both_kinds_are_no_more_together_than_the_backend_can() -> None:
    engine = Engine(FakeDrafter())
    engine.run(submit("abcdefghijklmnopqrstuvwxy. abcdefg", max_tokens=18), submit("1", max_tokens=24))
    outputs = [sum(1 + len(c.draft) for c in plan.chunks if c.wants_logits) for plan in engine.backend.steps]
    assert max(outputs) == engine.backend.info.n_outputs


def test_a_full_cache_has_no_room_for_guesses() -> None:
    engine = Engine(FakeDrafter(), n_ctx=40, n_ctx_train=40)
    events = engine.run(submit("1" * 30, max_tokens=None))
    assert (text(events), finish_reasons(events)) == (LETTERS[:10], ["length"])


def test_a_long_prompt_is_computed_in_parts_while_the_answer_goes_on() -> None:
    engine = Engine(FakeDrafter(prompt_s=0.1), n_ctx=600, n_ctx_train=600, step_s=100.0)
    assert text(engine.run(submit("1" * 300, max_tokens=20))) == LETTERS[:20]
    # A token takes long: no more at a time than it takes to learn that.
    assert engine.drafter.caught_up[:5] == [64, 64, 64, 64, 300 + 4 - 4 * 64]
    assert engine.n_guessed[-1] > 0


@pytest.mark.parametrize(("max_tokens", "is_computed"), [(10, False), (20, True)])
def test_a_long_prompt_is_computed_for_a_long_answer(*, max_tokens: int, is_computed: bool) -> None:
    # Measured at the beginning of the first answer, a token takes a tenth of a step: all take 15 steps.
    engine = Engine(FakeDrafter(prompt_s=0.05), n_ctx=600, n_ctx_train=600, step_s=0.5)
    engine.run(submit("2" * 100, max_tokens=24))
    n_computed = sum(engine.drafter.caught_up)
    engine.run(submit("1" * 150, max_tokens=max_tokens))
    assert (sum(engine.drafter.caught_up) > n_computed) == is_computed


@pytest.mark.parametrize(
    "message",
    [
        submit("1", max_tokens=9, speculation=False),
        submit("1", max_tokens=9, params=SamplingParams(temperature=0, seed=1)),  # the fake promises nothing
    ],
    ids=["off", "seed"],
)
def test_for_some_requests_nothing_is_guessed(message: Submit) -> None:
    engine = Engine(FakeDrafter())
    assert text(engine.run(message)) == LETTERS[:9]
    assert (engine.core.load.n_drafted, engine.drafter.caught_up) == (0, [])


def test_under_a_grammar_nothing_is_guessed() -> None:
    backend, drafter, compiled = FakeBackend(), FakeDrafter(), threading.Semaphore(0)
    backend.drafter = drafter
    core = EngineCore(
        backend, n_batch=64, max_running=4, prefix_reuse=True, speculation=True, on_ready=compiled.release
    )
    events = core.submit(submit("1", max_tokens=9, grammar="start: /[a-z]+/"))
    while core.is_idle:
        assert compiled.acquire(timeout=10)
        events += core.submit_ready()
    assert text(events + run(core)) == LETTERS[:9]
    assert (core.load.n_drafted, drafter.caught_up) == (0, [])


def test_adapters_get_no_guesses() -> None:
    backend, drafter = FakeBackend(n_lanes=2, adapters=("loud",)), FakeDrafter()
    backend.drafter = drafter
    core = EngineCore(backend, n_batch=64, max_running=4, prefix_reuse=True, speculation=True, now=lambda: 0.0)
    assert text(run(core, submit("1", max_tokens=9, adapter="loud"))) == LETTERS[:9].upper()
    assert (core.load.n_drafted, drafter.caught_up) == (0, [])


def test_nothing_is_guessed_beside_prompts() -> None:
    engine = Engine(FakeDrafter())
    engine.core.submit(submit("1", max_tokens=20))
    engine.core.step()
    engine.run(submit("2" * 200, max_tokens=4))
    for plan in engine.backend.steps:
        assert not (plan.has_drafts and plan.n_prompt_tokens)


def test_an_abort_is_an_end() -> None:
    engine = Engine(FakeDrafter())
    message = submit("1", max_tokens=20)
    engine.core.submit(message)
    for _ in range(2):
        engine.core.step()
    assert engine.drafter.n_computed
    engine.core.abort(message.request_id)
    assert not engine.drafter.n_computed
    engine.core.submit(submit("1!", max_tokens=20))
    engine.core.submit(submit("1", max_tokens=20))
    for _ in range(2):
        engine.core.step()
    engine.core.abort_all("engine_failed", "")
    assert not engine.drafter.n_computed


def steps_and_guesses(engine: Engine, n_answers: int, **fields: int) -> tuple[int, int]:
    """Of so many answers one after another."""
    for _ in range(n_answers):
        engine.run(submit("1", **{"max_tokens": 24, **fields}))
    return len(engine.backend.steps), engine.core.load.n_drafted


def test_a_draft_model_that_is_as_slow_as_the_model_is_hardly_asked() -> None:
    slow = Engine(FakeDrafter(round_s=0.01), step_s=0.01)
    fast = Engine(FakeDrafter(round_s=0.0001), step_s=0.01)
    assert steps_and_guesses(slow, 4)[1] < 30
    assert steps_and_guesses(fast, 4)[1] > 60


def test_the_time_that_guesses_take_counts_as_the_step_s() -> None:
    engine = Engine(FakeDrafter(prompt_s=0.001, round_s=0.001), step_s=0.01)
    engine.run(submit("1" * 100, max_tokens=20))
    assert engine.core.load.compute_s == pytest.approx(engine._now())
    assert engine.core.load.longest_step_s > 0.01 + 0.05


def test_a_cost_that_was_measured_badly_is_measured_again() -> None:
    drafter = FakeDrafter(round_s=0.02)
    engine = Engine(drafter, step_s=0.01)
    steps_and_guesses(engine, 1)
    drafter._round_s = 0.0001
    before = engine.core.load.n_drafted
    steps_and_guesses(engine, 2)
    assert engine.core.load.n_drafted == before
    steps_and_guesses(engine, 60)
    assert engine.core.load.n_drafted > before + 100


def test_the_first_guess_may_take_long() -> None:
    """Weights are read from the disk then."""
    drafter = FakeDrafter(round_s=5.0)
    engine = Engine(drafter, step_s=0.01)
    engine.core.submit(submit("1", max_tokens=24))
    while not any(drafter.asked):
        engine.core.step()
    drafter._round_s = 0.0001
    engine.run()
    assert len(drafter.asked) > 2


def test_one_that_is_wrong_is_hardly_asked_any_more() -> None:
    engine = Engine(FakeDrafter(wrong_behind=LETTERS, round_s=0.001), step_s=0.01)
    _, first = steps_and_guesses(engine, 1)
    assert 0 < first
    _, before = steps_and_guesses(engine, 20)
    n_asked = sum(map(bool, engine.drafter.asked))
    n_steps, after = steps_and_guesses(engine, 20)
    assert after - before < 20 * 2, "two guesses an answer, which cost a hundredth of its time"
    assert sum(map(bool, engine.drafter.asked)) > n_asked, "nobody would find out when it is right again"


@pytest.mark.parametrize("is_usual", [True, False])
def test_bad_luck_in_one_answer_is_forgiven_while_guesses_are_usually_right(*, is_usual: bool) -> None:
    engine = Engine(FakeDrafter(round_s=0.001), step_s=0.01)
    steps_and_guesses(engine, 5)
    engine.core.submit(submit("1", max_tokens=24))
    for _ in range(2):
        engine.core.step()
    drafts = next(iter(engine.core._lanes))._drafts
    assert drafts is not None
    (acceptance,) = drafts._acceptance.values()
    acceptance.chance = 0.09
    if not is_usual:
        drafts._usual.chance = 0.01
    n_asked = len(engine.drafter.asked)
    engine.run()
    assert (len(engine.drafter.asked) > n_asked) == is_usual


def test_one_that_was_wrong_is_tried_again_later() -> None:
    drafter = FakeDrafter(wrong_behind=LETTERS, round_s=0.001)
    engine = Engine(drafter, step_s=0.01)
    steps_and_guesses(engine, 40)
    drafter._wrong_behind = b""
    accepted = engine.core.load.n_draft_accepted
    steps_and_guesses(engine, 40)
    assert engine.core.load.n_draft_accepted > accepted


def test_a_sequence_that_has_made_way_is_kept() -> None:
    """A slot of the model and what the draft model has of a sequence are different things."""
    engine = Engine(FakeDrafter(), n_ctx=64, n_ctx_train=64)
    events = engine.run(*(submit(f"{number}" * 20, max_tokens=18) for number in range(3)))
    assert len(finish_reasons(events)) == 3
    assert all(isinstance(sequence, Sequence) for asked in engine.drafter.asked for sequence in asked)
