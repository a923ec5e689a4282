"""A draft model beside a model, both tiny and real: the text is that without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.engine.backend import BadBatch, KVCacheFull
from appliance.engine.core import EngineCore
from appliance.engine.llama.backend import LlamaBackend
from appliance.engine.llama.draft_model import DraftModel
from appliance.engine.llama.vocabulary import difference
from appliance.engine.messages import Submit
from appliance.engine.params import SamplingParams
from appliance.engine.sequence import Sequence
from appliance.errors import EngineFailed
from tests.factories import submit
from tests.model.engines import engine, run, texts
from tests.tiny_models import engine_config, tokens_of, write_model

# A seed has each computed so that rounding does not depend on what else is in a step.
GREEDY = SamplingParams(temperature=0, seed=1)
DRAWN = SamplingParams(temperature=0.5, seed=1)
N_CTX, N_BATCH = 512, 64


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model, one of other weights, and those that can't guess for it."""
    folder = tmp_path_factory.mktemp("draft")
    found = {kind: write_model(folder / f"{kind}.gguf", kind) for kind in ("llama", "sliding", "recurrent")}
    found["other"] = write_model(folder / "other.gguf", "llama", seed=1, n_layer=2)
    found["renamed"] = folder / "renamed.gguf"
    found["renamed"].write_bytes(found["other"].read_bytes().replace("▁".encode(), "…".encode()))
    return found


@pytest.fixture(scope="module")
def loaded(paths: dict[str, Path]) -> Iterator[LlamaBackend]:
    """The model as its own draft model."""
    with load(paths, "llama") as backend:
        yield backend


@pytest.fixture(autouse=True)
def no_failures(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What llama.cpp refuses costs guesses, and shows nowhere else."""
    yield
    assert not [record for record in caplog.get_records("call") if "draft_failed" in record.getMessage()]


def load(paths: dict[str, Path], draft: str, model: str = "llama", n_batch: int = N_BATCH) -> LlamaBackend:
    config = engine_config(paths[model], draft_model_path=str(paths[draft]), n_ctx=N_CTX, n_batch=n_batch)
    return LlamaBackend(config)


def drafter_of(backend: LlamaBackend) -> DraftModel:
    assert backend.drafter is not None
    return backend.drafter


def check_free(backend: LlamaBackend) -> None:
    """Nothing is left of a sequence that has ended."""
    assert drafter_of(backend).n_free_slots == backend.info.n_seq_max


def messages(params: SamplingParams, n: int = 4, max_tokens: int = 40) -> list[Submit]:
    return [submit(f"{number} bottles", params=params, max_tokens=max_tokens) for number in range(n)]


def without_draft(backend: LlamaBackend, *asked: Submit, n_batch: int = N_BATCH) -> list[str]:
    return texts(engine(backend, n_batch=n_batch), *asked)


def guessing(backend: LlamaBackend, n_batch: int = N_BATCH) -> EngineCore:
    return engine(backend, n_batch=n_batch, speculation=True)


def draft(drafter: DraftModel, n_tokens: int, *sequences: Sequence) -> list[list[int]]:
    drafter.catch_up(sequences, 1000)
    drafts = drafter.draft(dict.fromkeys(sequences, n_tokens))
    return [drafts[sequence] for sequence in sequences]


def sequence_of(tokens: list[int]) -> Sequence:
    return Sequence(request_id="r", index=0, tokens=tokens, n_prompt=1)


@pytest.mark.parametrize("params", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_a_model_that_guesses_for_itself_is_right(loaded: LlamaBackend, params: SamplingParams) -> None:
    asked = messages(params)
    core = guessing(loaded)
    assert texts(core, *asked) == without_draft(loaded, *asked)
    if params is GREEDY:
        assert core.load.n_draft_accepted > 0.9 * core.load.n_drafted > 0
        assert core.load.n_steps < 20
    check_free(loaded)


def test_one_of_other_weights_is_mostly_wrong_and_changes_nothing(paths: dict[str, Path]) -> None:
    with load(paths, "other", n_batch=16) as backend:  # which has no room for all prompts at once
        asked = messages(GREEDY)
        core = guessing(backend, 16)
        assert texts(core, *asked) == without_draft(backend, *asked, n_batch=16)
        assert core.load.n_draft_accepted < 0.5 * core.load.n_drafted
        check_free(backend)


def test_a_prompt_longer_than_a_batch_and_an_answer_that_fills_the_context(loaded: LlamaBackend) -> None:
    asked = submit("x y z " * 60, params=GREEDY, max_tokens=None, ignore_eos=True)
    core = guessing(loaded)
    assert texts(core, asked) == without_draft(loaded, asked)
    assert core.load.n_draft_accepted > 50
    check_free(loaded)


def test_what_does_not_fit_into_its_cache_gets_no_guesses(loaded: LlamaBackend) -> None:
    # The model has what they share once, its draft model once for each.
    asked = [submit("a b c d e " * 24 + str(number), params=GREEDY, max_tokens=60) for number in range(4)]
    core = guessing(loaded)
    assert texts(core, *asked) == without_draft(loaded, *asked)
    assert core.load.n_draft_accepted > 0
    check_free(loaded)


def test_an_abort_frees_what_is_computed(loaded: LlamaBackend) -> None:
    core, (asked, other) = guessing(loaded), messages(GREEDY, 2, max_tokens=200)
    core.submit(asked)
    while drafter_of(loaded).n_free_slots == loaded.info.n_seq_max:
        core.step()
    core.submit(other)
    core.abort(asked.request_id)
    core.abort_all("engine_failed", "")
    check_free(loaded)


@pytest.mark.parametrize("error", [KVCacheFull, BadBatch])
def test_guesses_that_can_not_be_made_are_left_out(
    loaded: LlamaBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    asked, context = messages(GREEDY), drafter_of(loaded)._context
    calls, go_on = [0], context.go_on

    def failing(parts: list[tuple[int, int, list[int]]]) -> Any:
        calls[0] += 1
        if calls[0] % 3 == 2:
            raise error("no room")
        return go_on(parts)

    expected = without_draft(loaded, *asked)
    monkeypatch.setattr(context, "go_on", failing)
    core = guessing(loaded)
    assert texts(core, *asked) == expected
    assert core.load.n_draft_accepted > 0
    assert "draft_failed" in caplog.text
    caplog.clear()
    check_free(loaded)


def test_what_it_guesses_does_not_depend_on_what_it_guessed_before(loaded: LlamaBackend) -> None:
    drafter, prompt = drafter_of(loaded), tokens_of("guess")
    sequence = sequence_of(list(prompt))
    (expected,) = draft(drafter, 6, sequence)
    assert len(expected) == 6
    assert draft(drafter, 6, sequence) == [expected]  # the step was planned a second time
    for n_right in (1, 6, 3, 0):
        sequence.tokens += [*expected[:n_right], tokens_of("!")[0]]
        fresh = sequence_of(list(sequence.tokens))
        found, expected = draft(drafter, 6, sequence, fresh)
        assert found == expected
        drafter.forget(fresh)
    drafter.forget(sequence)
    check_free(loaded)


def test_behind_an_end_nothing_is_guessed(loaded: LlamaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    drafter, sequence = drafter_of(loaded), sequence_of(tokens_of("guess"))
    (expected,) = draft(drafter, 6, sequence)
    monkeypatch.setattr(drafter._model, "is_eog", lambda token: token == expected[2])
    assert draft(drafter, 6, sequence) == [expected[: expected.index(expected[2]) + 1]]
    drafter.forget(sequence)


def test_a_batch_is_computed_at_a_time_and_no_more_than_may_be(loaded: LlamaBackend) -> None:
    drafter, sequences = drafter_of(loaded), [sequence_of(tokens_of("x" * 100)) for _ in range(2)]
    assert [drafter.catch_up(sequences, n_most) for n_most in (1000, 10, 1000, 1000, 1000)] == [64, 10, 64, 60, 0]
    assert len(drafter.draft(dict.fromkeys(sequences, 3))) == 2
    for sequence in sequences:
        drafter.forget(sequence)


def test_no_more_is_computed_than_there_are_cells(loaded: LlamaBackend) -> None:
    drafter = drafter_of(loaded)
    full = [sequence_of(tokens_of("x" * 120)) for _ in range(4)]
    late = sequence_of(tokens_of("x" * 40))
    while drafter.catch_up([*full, late], 1000):
        pass
    # 32 cells are left: a guess but the last takes one.
    assert len(drafter.draft(dict.fromkeys([*full, late], 12))) == 2
    full[0].tokens += tokens_of("y" * 50)
    assert drafter.catch_up(full, 1000) == 0
    for sequence in full:
        drafter.forget(sequence)
    first, second = (sequence_of(tokens_of("x" * 300)) for _ in range(2))
    drafter.catch_up([first, second], 10)
    assert drafter.n_free_slots == loaded.info.n_seq_max - 1, "the rest of the first would have no room"
    drafter.forget(first)


def test_a_text_with_tokens_that_it_has_not_gets_no_guesses(
    loaded: LlamaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafter_of(loaded), "_n_vocab", 3 + ord("x"))
    core = guessing(loaded)
    run(core, submit("one x", params=GREEDY, max_tokens=8))
    assert core.load.n_drafted == 0
    check_free(loaded)


def test_its_buffers_are_told(paths: dict[str, Path], loaded: LlamaBackend) -> None:
    with LlamaBackend(engine_config(paths["llama"], n_ctx=N_CTX, n_batch=64)) as alone:
        sizes = [sum(buffer.n_bytes for buffer in backend.info.buffers) for backend in (alone, loaded)]
    assert sizes[1] == 2 * sizes[0]


@pytest.mark.parametrize(
    ("model", "draft", "message"),
    [
        ("llama", "renamed", "another vocabulary than .*: its token 259 is '…' instead of '▁'; choose a smaller"),
        ("llama", "sliding", "can't guess for .*: wrong guesses can't be dropped from its memory"),
        ("llama", "recurrent", "can't guess for .*: wrong guesses can't be dropped from its memory"),
        ("recurrent", "llama", "guesses can't be dropped from the memory of .*leave its draft model .* out"),
    ],
)
def test_what_can_not_guess_for_a_model_is_refused_with_both_names(
    paths: dict[str, Path], model: str, draft: str, message: str
) -> None:
    with pytest.raises(EngineFailed, match=message) as refused:
        load(paths, draft, model)
    for path in (paths[model], paths[draft]):
        assert str(path) in refused.value.message


def test_vocabularies_that_differ_by_padding_are_the_same(loaded: LlamaBackend) -> None:
    model = loaded._model
    for n_more, found in ((0, None), (128, None), (129, f"it has {model.n_vocab + 129} tokens instead")):
        other = cast(Any, SimpleNamespace(vocab=model.vocab, n_vocab=model.n_vocab + n_more))
        told = difference(model, other)
        assert told is None if found is None else (told or "").startswith(found)
