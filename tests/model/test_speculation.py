"""Guesses over the real model: the text is that without them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from appliance.engine.llama.backend import LlamaBackend
from appliance.engine.messages import Piece
from appliance.engine.params import SamplingParams
from appliance.models.store import StoredModel
from tests.factories import submit
from tests.model.engines import config, engine, run, texts

LINES = [
    *[(f"x{number} = a, b, c", ", d, e, f, g") for number in range(20)],
    *[(f"Number {number} is the name", " of the house on the hill.") for number in range(10)],
    *[(f"{n} {n + 1} {n + 2}", f" {n + 3} {n + 4} {n + 5}") for n in range(1, 60, 3)],
]
# Each line twice, and its beginning.
PROMPTS = [2 * f"{beginning}{rest}\n" + beginning for beginning, rest in LINES]


@pytest.fixture(scope="module")
def backend(stored: StoredModel) -> Iterator[LlamaBackend]:
    with LlamaBackend(config(stored)) as loaded:
        yield loaded


def test_greedy_text_with_guesses_is_that_without_on_fifty_prompts(backend: LlamaBackend) -> None:
    assert len(set(PROMPTS)) == 50
    # A seed has each computed so that rounding does not depend on what else is in a step.
    params = SamplingParams(temperature=0, seed=1)
    messages = [submit(prompt, params=params, max_tokens=8) for prompt in PROMPTS]
    expected = texts(engine(backend), *messages)
    guessing = engine(backend, speculation=True)
    assert [text for message in messages for text in texts(guessing, message)] == expected
    assert guessing.load.n_draft_accepted > 50
    assert guessing.load.n_steps < 0.75 * guessing.load.n_sampled


def test_what_is_drawn_with_a_seed_is_the_same_with_guesses_to_the_last_bit(backend: LlamaBackend) -> None:
    params = SamplingParams(temperature=0.3, repeat_penalty=1.01, seed=3)
    message = submit(PROMPTS[0], params=params, max_tokens=24, top_logprobs=2)
    (expected,) = run(engine(backend), message).values()
    guessing = engine(backend, speculation=True)
    (found,) = run(guessing, message).values()
    logprobs = [
        [one for event in events if isinstance(event, Piece) for one in event.logprobs] for events in (expected, found)
    ]
    assert logprobs[0] == logprobs[1]
    assert guessing.load.n_draft_accepted > 0
