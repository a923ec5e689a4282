"""The bench's arithmetic: spreads, percentiles, ratios and verdicts."""

from __future__ import annotations

import pytest

from bench.disturbance import Disturbance
from bench.figures import Figure, Target, summarize
from bench.rounds import Round, Sample
from bench.summary import percentile, spread

OURS, OPENMP, PLAIN, OTHER = "this appliance", "llama-server (OpenMP)", "llama-server (no OpenMP)", "llama_cpp.server"


def rounds(*values: dict[str, float]) -> list[Round]:
    """A round for each dictionary of contestants' values of the figure ``x_s``."""
    return [
        Round(number, {name: Sample({"x_s": value}) for name, value in samples.items()}, Disturbance())
        for number, samples in enumerate(values, 1)
    ]


def test_a_spread_is_the_median_with_the_extremes() -> None:
    found = spread([3.0, 1.0, 2.0, 10.0])
    assert (found.median, found.least, found.greatest) == (2.5, 1.0, 10.0)


def test_a_percentile_is_a_value_that_occurred() -> None:
    values = [float(value) for value in range(1, 101)]
    assert percentile(values, 0.99) == 99.0
    assert percentile(values, 0.5) == 50.0
    assert percentile([7.0], 0.99) == 7.0


@pytest.mark.parametrize("function", [spread, lambda values: percentile(values, 0.5)])
def test_nothing_has_no_spread_and_no_percentile(function) -> None:
    with pytest.raises(ValueError, match="no values"):
        function([])


def test_ratios_are_taken_within_a_round() -> None:
    # The second round was slow for both: the ratio of the medians would be another one.
    measured = rounds({OURS: 1.0, OPENMP: 2.0}, {OURS: 10.0, OPENMP: 20.0}, {OURS: 1.0, OPENMP: 1.0})
    ratio = summarize(Figure("x_s", "x"), measured, (OURS, OPENMP)).ratios[OPENMP]
    assert (ratio.median, ratio.least, ratio.greatest) == (0.5, 0.5, 1.0)


@pytest.mark.parametrize(("bound", "counts"), [("at most", 1.25), ("at least", 0.5)])
def test_the_better_build_of_a_peer_counts(bound, counts) -> None:
    figure = Figure("x_s", "x", Target(bound, 1.0, "llama-server"))
    measured = rounds({OURS: 1.0, OPENMP: 2.0, PLAIN: 0.8, OTHER: 0.1})
    assert summarize(figure, measured, (OURS, OPENMP, PLAIN, OTHER)).counts == pytest.approx(counts)


def test_a_target_without_its_peer_is_neither_reached_nor_missed() -> None:
    figure = Figure("x_s", "x", Target("at most", 1.0, "llama-server"))
    summary = summarize(figure, rounds({OURS: 1.0, OTHER: 2.0}), (OURS, OTHER))
    assert summary.counts is None
    assert summary.is_reached is None


def test_a_target_on_a_value_is_held_against_the_median() -> None:
    figure = Figure("x_s", "x", Target("at most", 0.04))
    assert summarize(figure, rounds({OURS: 0.03}, {OURS: 0.5}, {OURS: 0.02}), (OURS,)).is_reached is True


def test_a_round_without_a_contestant_makes_no_ratio() -> None:
    measured = rounds({OURS: 1.0, OPENMP: 2.0}, {OURS: 3.0})
    ratio = summarize(Figure("x_s", "x"), measured, (OURS, OPENMP)).ratios[OPENMP]
    assert (ratio.least, ratio.greatest) == (0.5, 0.5)
