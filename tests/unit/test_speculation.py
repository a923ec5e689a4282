"""Guesses by prompt lookup, and when they pay."""

from __future__ import annotations

import pytest

from appliance.engine.acceptance import MAX_DRAFT
from appliance.engine.pace import DecodeCost
from appliance.engine.prompt_lookup import PromptLookup
from appliance.engine.speculation import least_chance

TEXT = list(range(100, 140))


def after(prompt: list[int], *answer: int) -> PromptLookup:
    """The lookup of a sequence that has gone on so far, asked after each token."""
    tokens = list(prompt)
    lookup = PromptLookup(tokens, len(prompt))
    for token in answer:
        lookup.draft(1, 0.0)
        tokens.append(token)
    return lookup


def test_what_repeats_the_prompt_is_guessed_to_go_on_as_the_prompt_does() -> None:
    assert after([1, *TEXT, 2], *TEXT[:10]).draft(5, 0.0) == TEXT[10:15]


def test_a_short_agreement_is_chance() -> None:
    assert after([1, *TEXT, 2], *TEXT[:5]).draft(5, 0.0) == []
    assert after([1, *TEXT, 2], *TEXT[:6]).draft(5, 0.0) == TEXT[6:11]


def test_what_was_written_before_is_guessed_without_a_prompt() -> None:
    assert after([1], *TEXT, 2, *TEXT[:8]).draft(3, 0.0) == TEXT[8:11]


def test_the_end_of_the_prompt_counts() -> None:
    assert after([*TEXT, 2, *TEXT[:8]]).draft(3, 0.0) == TEXT[8:11]
    assert after([*TEXT, 2, *TEXT[:8]], TEXT[8]).draft(3, 0.0) == TEXT[9:12]
    assert after([*TEXT, 2, *TEXT[:5]]).draft(3, 0.0) == []
    assert after([1]).draft(3, 0.0) == []


def test_what_has_been_written_counts_like_the_prompt() -> None:
    assert after(TEXT, *TEXT[:30]).draft(MAX_DRAFT, 0.0) == TEXT[30:40] + TEXT[:6]


def test_what_repeats_itself_is_guessed_to_do_so_for_ever() -> None:
    assert after([1], *[7] * 12).draft(5, 0.0) == [7] * 5
    assert after([1], *[7, 8, 9] * 5).draft(7, 0.0) == [7, 8, 9, 7, 8, 9, 7]


def test_no_more_are_guessed_than_may_be() -> None:
    lookup = after(TEXT, *TEXT[:10])
    assert len(lookup.draft(100, 0.0)) == MAX_DRAFT
    assert lookup.draft(0, 0.0) == []
    assert lookup.draft(-3, 0.0) == []


def test_the_less_likely_a_guess_is_the_fewer_are_made() -> None:
    lookup = after(TEXT, *TEXT[:7])
    lengths = [len(lookup.draft(MAX_DRAFT, chance)) for chance in (0.1, 0.4, 0.7, 0.99)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1] == 0


def test_after_wrong_guesses_none_are_made_until_they_would_have_been_right() -> None:
    prompt = TEXT * 2
    tokens = list(prompt)
    lookup = PromptLookup(tokens, len(prompt))
    for number in range(12):  # it begins to repeat the prompt and leaves it again, time after time
        tokens += [*TEXT[:6], 500 + number]
        lookup.draft(1, 0.0)
    tokens += TEXT[:7]
    assert lookup.draft(MAX_DRAFT, 0.5) == []
    for token in TEXT[7:]:
        tokens.append(token)
        lookup.draft(1, 0.5)
    tokens += TEXT[:20]
    assert lookup.draft(MAX_DRAFT, 0.5) == TEXT[20:36]


def test_a_long_prompt_is_looked_through_at_its_end_only() -> None:
    lookup = after([*TEXT, *range(1000, 20_000)], *TEXT[:10])
    assert lookup.draft(4, 0.0) == []


@pytest.mark.parametrize("n_tokens", [1, 8, 32])
def test_where_tokens_cost_nothing_any_guess_pays(n_tokens: int) -> None:
    assert least_chance(n_tokens, 0.0) == 0.0


def test_the_fuller_a_step_the_better_guesses_must_be() -> None:
    chances = [least_chance(n_tokens, 0.8) for n_tokens in (1, 2, 8, 32)]
    assert chances == sorted(chances)
    assert chances[0] < 0.5
    assert chances[-1] > 1.0  # no guess pays


def cost(*steps: tuple[int, float]) -> DecodeCost:
    found = DecodeCost()
    for n_tokens, step_s in steps:
        found.observe(n_tokens, step_s)
    return found


def test_the_cost_of_a_token_is_learnt_from_steps_of_several_sizes() -> None:
    assert cost(*[(n, 0.003 + 0.002 * n) for n in (1, 2, 4, 8)] * 5).token_cost == pytest.approx(2 / 3)


def test_before_that_a_token_is_taken_to_cost_as_much_as_the_rest() -> None:
    assert DecodeCost().token_cost == 1.0
    assert cost(*[(1, 0.005)] * 9).token_cost == 1.0


def test_larger_steps_that_take_no_longer_make_tokens_free() -> None:
    assert cost((1, 0.006), (4, 0.005), (8, 0.005)).token_cost == 0.0


def test_new_steps_replace_old_ones() -> None:
    found = cost(*[(1, 0.005), (8, 0.005)] * 50, *[(1, 0.004), (8, 0.018)] * 200)
    assert found.token_cost == pytest.approx(1.0, rel=0.1)
