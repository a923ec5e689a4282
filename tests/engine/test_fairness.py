"""Whole requests of several keys through the engine's loop, over a model that computes nothing."""

from __future__ import annotations

import msgspec
import pytest

from appliance.engine.core import EngineCore
from appliance.engine.messages import Event, Finished, Piece, Submit
from tests.factories import submit
from tests.fake_backend import FakeBackend

MAX_RUNNING = 4


def engine(*, n_ctx: int = 4096) -> EngineCore:
    backend = FakeBackend(n_ctx=n_ctx, n_ctx_train=4096, n_seq_max=MAX_RUNNING + 4)
    return EngineCore(backend, n_batch=64, max_running=MAX_RUNNING, prefix_reuse=True, now=lambda: 0.0)


def request(key: str, *, text: str = "a", max_tokens: int = 10, **fields: object) -> Submit:
    message = submit(text, max_tokens=max_tokens, ignore_eos=True, scope=key)
    return msgspec.structs.replace(message, key=key, **fields)


def steps_until_finished(core: EngineCore, request_id: str) -> int:
    for n_steps in range(1, 10_000):
        if any(isinstance(event, Finished) and event.request_id == request_id for event in core.step()):
            return n_steps
    raise AssertionError(f"{request_id} does not end")


@pytest.mark.parametrize("n_before", [0, 1, 20])
def test_a_hundred_long_requests_of_one_key_do_not_delay_anothers_single_short_one(n_before: int) -> None:
    alone = engine()
    single = request("single")
    alone.submit(single)
    n_alone = steps_until_finished(alone, single.request_id)

    core = engine()
    for number in range(100):
        core.submit(request("hog", text=f"{number}: " + "x" * 40, max_tokens=60))
    for _ in range(n_before):
        core.step()
    core.submit(single)
    # Beside others it waits at most for the chunks of two prompts.
    assert steps_until_finished(core, single.request_id) <= n_alone + 2


def test_all_answers_are_whole_and_right_in_a_context_too_small_for_the_load() -> None:
    """Preempted, evicted and recomputed, whatever class and key: each text is what it is alone."""
    prompts = [f"{number:03d}" + "x" * (number % 37) + "a" for number in range(30)]
    messages = [
        request(f"key{number % 3}", text=text, max_tokens=40, weight=1.0 + number % 2, is_batch=number % 5 == 0)
        for number, text in enumerate(prompts)
    ]
    core = engine(n_ctx=160)
    events: list[Event] = [event for message in messages for event in core.submit(message)]
    while not core.is_idle:
        events += core.step()
    for message in messages:
        own = [event for event in events if event.request_id == message.request_id]
        assert isinstance(own[-1], Finished)
        assert own[-1].n_completion == 40
        text = "".join(event.text for event in own if isinstance(event, Piece))
        assert text.replace("\0", "") == "".join(chr(ord("b") + i) for i in range(25)) + text[26:].replace("\0", "")
        assert len(text) == 40
    assert core.load.n_preempted > 0


def test_the_load_counts_what_was_done() -> None:
    core = engine()
    for _ in range(2):  # the second prompt is all but its last token known
        message = request("key", text="0123456789", max_tokens=5)
        core.submit(message)
        steps_until_finished(core, message.request_id)
    load = core.load
    assert (load.n_steps, load.n_sampled) == (10, 10)
    assert (load.n_prompt_reused, load.n_prompt_computed) == (9, 10)
    assert (load.n_running, load.n_waiting, load.n_retained) == (0, 0, 2)
