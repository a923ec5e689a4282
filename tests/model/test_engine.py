"""The engine with the real model, in this process."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.engine.core import EngineCore
from appliance.engine.llama.backend import LlamaBackend
from appliance.engine.messages import Event, Failed, Finished, Piece, SequenceFinished, Submit
from appliance.engine.params import SamplingParams
from appliance.models.store import StoredModel
from tests.factories import submit
from tests.model.engines import SAFE_PROMPTS, config, engine, finished, run, texts

GREEDY = SamplingParams(temperature=0)


@pytest.fixture
def core(backend: LlamaBackend) -> Iterator[EngineCore]:
    core = engine(backend)
    yield core
    assert core.is_idle
    assert not backend._samplers, "a finished request kept its sampler"


def test_the_safe_prompts_are_safe(core: EngineCore) -> None:
    for prompt in SAFE_PROMPTS:
        (events,) = run(core, submit(prompt, max_tokens=8, top_logprobs=2)).values()
        records = [record for event in events if isinstance(event, Piece) for record in event.logprobs]
        margin = min(record.top[0][1] - record.top[1][1] for record in records)
        assert margin > 1.5, f"{prompt!r}: {margin:.2f} nat"


@pytest.mark.parametrize("prefix_reuse", [True, False])
def test_greedy_text_together_is_that_of_one_by_one(backend: LlamaBackend, prefix_reuse: bool) -> None:
    core = engine(backend, prefix_reuse=prefix_reuse)
    alone = [texts(core, submit(prompt, max_tokens=8))[0] for prompt in SAFE_PROMPTS]
    together = texts(core, *(submit(prompt, max_tokens=8) for prompt in SAFE_PROMPTS))
    assert together == alone
    assert alone[0] == " 8, 9, 1"


def test_a_prefix_that_was_computed_is_not_computed_again(core: EngineCore) -> None:
    first = finished(*run(core, submit(SAFE_PROMPTS[0])).values())
    again = finished(*run(core, submit(SAFE_PROMPTS[0])).values())
    longer = finished(*run(core, submit(SAFE_PROMPTS[0] + " 8, 9, 10, 11,")).values())
    assert (first.n_cached, again.n_cached) == (0, first.n_prompt - 1)
    assert longer.n_cached >= first.n_prompt


def test_a_prompt_in_chunks_gives_the_text_of_one_chunk(backend: LlamaBackend) -> None:
    prompt = "Numbers: " + " ".join(f"{i}," for i in range(1, 40))
    whole = texts(engine(backend), submit(prompt, max_tokens=6))
    chunked = texts(engine(backend, n_batch=16, prefix_reuse=False), submit(prompt, max_tokens=6))
    assert chunked == whole


@pytest.fixture(scope="module", params=[1, 2])
def exact_backend(stored: StoredModel, request: pytest.FixtureRequest) -> Iterator[LlamaBackend]:
    """With one thread, and with two, where attention is computed in another way for a token alone."""
    with LlamaBackend(config(stored, n_threads=request.param, n_threads_batch=request.param)) as loaded:
        yield loaded


def seeded(*, request_id: str | None = None, prompt: str = "The sky over the harbour was", n: int = 1) -> Submit:
    params = SamplingParams(temperature=1.0, seed=11)
    return submit(prompt, request_id=request_id, params=params, max_tokens=12, top_logprobs=1, n=n)


def transcript(events: list[Event]) -> list[tuple[bytes, float]]:
    return [(record.token, record.logprob) for e in events if isinstance(e, Piece) for record in e.logprobs]


def test_a_seed_gives_the_same_bits_alone_and_in_company_from_a_prefix_and_from_scratch(
    exact_backend: LlamaBackend,
) -> None:
    """Not the same text by luck: every log-probability is the same number, to the last bit."""
    core = engine(exact_backend)
    long_prompt = "It was late. " * 20 + "The sky over the harbour was"
    for prompt in (long_prompt, "The sky over the harbour was"):
        (alone,) = run(core, seeded(prompt=prompt)).values()
        run(core, submit("Enough to fill the cells below the next ones. " * 60, max_tokens=1))
        (from_prefix,) = run(core, seeded(prompt=prompt)).values()
        assert finished(from_prefix).n_cached > 0
        others = [submit(text, params=GREEDY, max_tokens=30) for text in SAFE_PROMPTS[:3]]
        others.append(submit("Write a long story. " * 16, params=GREEDY, max_tokens=5))
        in_company = run(core, *others[:2], seeded(request_id="it", prompt=prompt), *others[2:])["it"]
        from_scratch = run(engine(exact_backend, prefix_reuse=False), seeded(prompt=prompt)).popitem()[1]
        assert transcript(alone) == transcript(from_prefix) == transcript(in_company) == transcript(from_scratch)


def test_a_seed_gives_the_same_bits_while_the_number_of_threads_changes(stored: StoredModel) -> None:
    """As it does when another process takes a core."""
    prompt = "It was late. " * 120 + "The sky over the harbour was"
    with LlamaBackend(config(stored)) as one:
        (on_one,) = run(engine(one), seeded(prompt=prompt)).values()
    with LlamaBackend(config(stored, n_threads=2, n_threads_batch=2)) as two:
        (on_two,) = run(engine(two), seeded(prompt=prompt)).values()
        threads = two._context._threads
        assert threads._governor is not None
        core = engine(two)
        events = core.submit(seeded(prompt=prompt))
        while not core.is_idle:
            threads._governor.n_threads = 3 - threads._governor.n_threads
            events += core.step()
    assert transcript(on_one) == transcript(on_two) == transcript(events)


@pytest.mark.parametrize("prefix_reuse", [True, False])
def test_a_seed_gives_the_same_bits_in_a_cache_that_has_long_been_full(stored: StoredModel, prefix_reuse: bool) -> None:
    with LlamaBackend(config(stored, n_ctx=512)) as small:
        core = engine(small, prefix_reuse=prefix_reuse)
        first, *others = (
            [
                transcript(run(core, seeded(prompt=f"Story {number} of the sea:", n=1)).popitem()[1])
                for number in range(8)
            ]
            for _ in range(4)
        )
        assert all(other == first for other in others)


def test_a_seed_gives_the_same_bits_from_a_prefix_that_lies_above_freed_cells(exact_backend: LlamaBackend) -> None:
    prompt = "It was late. " * 20 + "The sky over the harbour was"
    from_scratch = run(engine(exact_backend, prefix_reuse=False), seeded(prompt=prompt)).popitem()[1]
    core = engine(exact_backend)
    run(core, submit("Enough to fill the cells below the next ones. " * 60, max_tokens=1))
    run(core, seeded(prompt=prompt))
    next(iter(core._lanes)).scheduler._slots.evict_one()
    (from_prefix,) = run(core, seeded(prompt=prompt)).values()
    assert finished(from_prefix).n_cached > 80
    assert transcript(from_prefix) == transcript(from_scratch)


def test_a_seed_gives_the_same_bits_while_others_come_and_go(exact_backend: LlamaBackend) -> None:
    """Each of the others' cells is free again while the answer goes on, with prefix reuse off."""
    prompt = "It was late. " * 20 + "The sky over the harbour was"
    (alone,) = run(engine(exact_backend, prefix_reuse=False), seeded(prompt=prompt)).values()
    core = engine(exact_backend, prefix_reuse=False)
    events = [
        *core.submit(submit(SAFE_PROMPTS[0] * 4, max_tokens=2)),
        *core.submit(seeded(prompt=prompt, request_id="it")),
    ]
    while not core.is_idle:
        events += core.step()
        if next(iter(core._lanes)).scheduler.n_running == 1:
            core.submit(submit(SAFE_PROMPTS[1], max_tokens=2))
        if any(isinstance(event, Finished) and event.request_id == "it" for event in events):
            break
    while not core.is_idle:
        core.step()
    assert transcript([event for event in events if event.request_id == "it"]) == transcript(alone)


def test_seeded_requests_that_end_one_after_another_do_not_disturb_each_other(backend: LlamaBackend) -> None:
    def request(number: int) -> Submit:
        params = SamplingParams(seed=number)
        return submit(f"Story {number}:", params=params, max_tokens=6 + 4 * number, top_logprobs=0, ignore_eos=True)

    for prefix_reuse in (True, False):
        core = engine(backend, prefix_reuse=prefix_reuse)
        alone = [transcript(run(core, request(number)).popitem()[1]) for number in range(5)]
        together = [transcript(events) for events in run(core, *(request(number) for number in range(5))).values()]
        assert together == alone


def test_different_seeds_give_different_texts(core: EngineCore) -> None:
    results = texts(core, *(submit(params=SamplingParams(seed=seed), max_tokens=16) for seed in range(4)))
    assert len(set(results)) == 4


@pytest.mark.parametrize("seed", [-1, 0, 2**32 - 1, 2**63 - 1, -(2**63)])
def test_every_seed_is_a_seed(core: EngineCore, seed: int) -> None:
    """llama.cpp takes 2**32 - 1 to mean a random one."""
    first, again = (texts(core, submit(params=SamplingParams(seed=seed), max_tokens=12)) for _ in range(2))
    assert first == again


def test_n_gives_different_texts_for_one_prompt(core: EngineCore) -> None:
    (events,) = run(core, seeded(n=3)).values()
    by_index = [[e.text for e in events if isinstance(e, Piece) and e.index == index] for index in range(3)]
    assert len({"".join(pieces) for pieces in by_index}) == 3
    assert finished(events).n_prompt == finished(*run(core, seeded()).values()).n_prompt


def test_the_logprob_of_a_greedy_token_is_the_best_of_its_alternatives(core: EngineCore) -> None:
    (events,) = run(core, submit(SAFE_PROMPTS[0], max_tokens=3, top_logprobs=20)).values()
    for record in (record for e in events if isinstance(e, Piece) for record in e.logprobs):
        assert record.top[0] == (record.token, record.logprob)
        assert [value for _, value in record.top] == sorted((value for _, value in record.top), reverse=True)
        assert 0.5 < sum(math.exp(value) for _, value in record.top) <= 1.0


def test_logprobs_are_those_of_the_token_that_was_sampled(core: EngineCore) -> None:
    """A token that a bias forces keeps the probability that the model gave it."""
    (token,) = core._backend.tokenize(submit(" zebra").parts)
    params = SamplingParams(temperature=0, logit_bias={token: 100.0})
    (events,) = run(core, submit(SAFE_PROMPTS[0], params=params, max_tokens=1, top_logprobs=1)).values()
    (record,) = (record for e in events if isinstance(e, Piece) for record in e.logprobs)
    assert record.token == b" zebra"
    assert record.logprob < record.top[0][1] - 5


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.5, top_k=1, seed=1),
        SamplingParams(temperature=1.0, top_p=0.01, seed=1),
        SamplingParams(temperature=1.0, min_p=1.0, seed=1),
        SamplingParams(temperature=0.01, seed=1),
    ],
)
def test_a_filter_that_leaves_one_token_is_greedy(core: EngineCore, params: SamplingParams) -> None:
    greedy = texts(core, submit(SAFE_PROMPTS[0], max_tokens=8))
    assert texts(core, submit(SAFE_PROMPTS[0], params=params, max_tokens=8)) == greedy


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(seed=1, mirostat=1),
        SamplingParams(seed=1, mirostat=2),
        SamplingParams(seed=1, xtc_probability=1.0, xtc_threshold=0.05),
        SamplingParams(seed=1, typical_p=0.3),
        SamplingParams(seed=1, top_k=5),
        SamplingParams(temperature=0, repeat_penalty=3.0),
        SamplingParams(temperature=0, presence_penalty=2.0, frequency_penalty=2.0),
        SamplingParams(temperature=0, dry_multiplier=5.0, dry_allowed_length=1),
    ],
)
def test_every_knob_changes_what_is_said(core: EngineCore, params: SamplingParams) -> None:
    plain = SamplingParams(temperature=params.temperature, seed=params.seed)
    prompt = "la la la la la la la la"
    before, after = (texts(core, submit(prompt, params=p, max_tokens=24, ignore_eos=True)) for p in (plain, params))
    assert before != after


def test_a_banned_token_is_not_said(core: EngineCore) -> None:
    (token,) = core._backend.tokenize(submit(" ").parts)
    params = SamplingParams(temperature=0, logit_bias={token: -100.0})
    assert not texts(core, submit(SAFE_PROMPTS[0], params=params, max_tokens=4))[0].startswith(" 8")


def test_a_bias_on_a_token_that_is_not_there_is_refused(core: EngineCore) -> None:
    params = SamplingParams(logit_bias={10**6: 1.0})
    (event,) = core.submit(submit(params=params))
    assert isinstance(event, Failed)
    assert "token 1000000 is not in the vocabulary" in event.message


def test_an_end_token_finishes_with_stop(core: EngineCore) -> None:
    (events,) = run(
        core, submit("<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\nHi!", max_tokens=40)
    ).values()
    assert [event.finish_reason for event in events if isinstance(event, SequenceFinished)] == ["stop"]


def test_a_stop_string_that_spans_tokens_ends_the_text_before_it(core: EngineCore) -> None:
    assert texts(core, submit(SAFE_PROMPTS[0], max_tokens=20, stop=("9, 1",))) == [" 8, "]


def test_emoji_that_take_several_tokens_come_out_whole(core: EngineCore) -> None:
    prompt = "🦙🐑🦙🐑🦙🐑🦙🐑🦙🐑🦙🐑"
    (events,) = run(core, submit(prompt, max_tokens=24, ignore_eos=True)).values()
    pieces = [e.text for e in events if isinstance(e, Piece)]
    assert set(pieces[:4]) == {"🐑"}  # four tokens each


def test_more_requests_than_the_context_holds_all_finish(stored: StoredModel) -> None:
    with LlamaBackend(config(stored, n_ctx=256)) as small:
        core = engine(small)
        messages = [submit(prompt, max_tokens=60, ignore_eos=True) for prompt in SAFE_PROMPTS]
        results = run(core, *messages)
    assert [finished(events).n_completion for events in results.values()] == [60] * 8


def test_damaged_weights_are_an_error_and_not_nonsense(stored: StoredModel, tmp_path: Path) -> None:
    from gguf import GGUFReader

    path = tmp_path / "damaged.gguf"
    shutil.copy(stored.path, path)
    tensor = next(t for t in GGUFReader(path).tensors if t.name == "output_norm.weight")
    with path.open("r+b") as file:
        file.seek(int(tensor.data_offset))
        file.write(b"\xff" * int(tensor.n_bytes))  # NaN
    with LlamaBackend(config(stored, model_path=str(path))) as broken:
        (events,) = run(engine(broken), submit()).values()
    assert isinstance(events[-1], Failed)
    assert "file is damaged" in events[-1].message


def test_one_token_says_whether_an_engine_lives(core: EngineCore) -> None:
    canary = Submit("canary", tokens=(0,), max_tokens=1)
    assert finished(run(core, canary)["canary"]).n_completion == 1
