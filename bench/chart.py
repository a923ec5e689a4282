"""The chart: every ratio to a peer that has a target, with the span of its rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.results import Result

NAME = "chart.png"
_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#17becf")
_ROW_INCHES = 0.6


def write_chart(results: Sequence[Result], folder: Path) -> Path | None:
    """Draws the chart; None if no result has a ratio to draw. Raises ImportError without matplotlib."""
    from matplotlib import use

    use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import StrMethodFormatter

    bars = [
        (f"{result.title} [{result.gguf_type}]\n{summary.figure.meaning}", summary)
        for result in results
        if result.gguf_type is not None
        for summary in result.summaries
        if summary.figure.target is not None and summary.figure.target.versus is not None and summary.ratios
    ]
    if not bars:
        return None
    peers = list(dict.fromkeys(name for _, summary in bars for name in summary.ratios))
    figure, axes = pyplot.subplots(figsize=(11, 1.5 + _ROW_INCHES * len(bars)), layout="constrained")
    for row, (_, summary) in enumerate(bars):
        n_ratios = len(summary.ratios)
        for place, (name, ratio) in enumerate(summary.ratios.items()):
            y = row + (place - (n_ratios - 1) / 2) * 0.25
            colour = _COLOURS[peers.index(name) % len(_COLOURS)]
            axes.plot([ratio.least, ratio.greatest], [y, y], color=colour, linewidth=2)
            axes.plot([ratio.median], [y], marker="o", color=colour, linestyle="")
        target = summary.figure.target
        assert target is not None
        # The tip points to where it should be.
        tip = "<" if target.bound == "at most" else ">"
        axes.plot([target.value], [row], marker=tip, markersize=9, color="black", linestyle="")
        axes.plot([target.value, target.value], [row - 0.45, row + 0.45], color="black", linewidth=1)
    for position, name in enumerate(peers):
        axes.plot([], [], marker="o", color=_COLOURS[position % len(_COLOURS)], label=name)
    axes.plot([], [], marker="<", color="black", label="target, and its good side")
    axes.axvline(1.0, color="grey", linestyle=":", linewidth=1)
    axes.set_xscale("log")
    for formatted in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        formatted(StrMethodFormatter("{x:g}"))
    axes.set_yticks(range(len(bars)), [label for label, _ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("ours / theirs: median of the rounds, from the least to the greatest")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=8)
    path = folder / NAME
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
