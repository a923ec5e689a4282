"""What the bench holds computed prefixes on disk against."""

from __future__ import annotations

from bench.disturbance import Disturbance
from bench.figures import summarize
from bench.rounds import Round, Sample
from bench.workloads.registry import all_workloads
from bench.workloads.warm_tier import WITH, WITHOUT, WarmTier


def test_a_first_token_is_held_against_the_one_without_them_of_the_same_round() -> None:
    figure = next(figure for figure in WarmTier.figures if figure.name == "restart_ttft_s")
    rounds = [
        Round(number, {WITH: Sample({figure.name: ours}), WITHOUT: Sample({figure.name: theirs})}, Disturbance())
        for number, (ours, theirs) in enumerate([(0.2, 1.0), (0.6, 2.0), (0.9, 2.0)], 1)
    ]
    summary = summarize(figure, rounds, (WITH, WITHOUT))
    assert summary.counts == 0.3
    assert summary.is_reached


def test_it_is_measured_in_each_run() -> None:
    assert any(isinstance(workload, WarmTier) for workload in all_workloads(is_quick=True))
