"""``python -m bench``: runs the workloads, writes their results, and the table and chart of all results there are."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from pathlib import Path

import uvloop

from bench import cli, machine
from bench.bench import Bench, Options
from bench.chart import write_chart
from bench.disturbance import Meter
from bench.errors import BenchError
from bench.ggufs import find_gguf
from bench.progress import Progress
from bench.results import FOLDER, delete_result, make_result, read_results, write_result
from bench.rounds import LIMIT
from bench.table import plain, write_readme
from bench.workloads.registry import all_workloads

_LOOK_S = 1.0


def main() -> None:
    say = Progress()
    try:
        choice = cli.parse(sys.argv[1:])
        with tempfile.TemporaryDirectory(prefix="appliance-bench-") as scratch:
            n_failed = uvloop.run(_run(choice, Path(scratch), say))
        _report(choice.results, say)
    except BenchError as error:
        sys.exit(f"error: {error}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("stopped; all servers that were started have ended")
    sys.exit(f"{n_failed} workloads could not be measured; see above" if n_failed else 0)


async def _run(choice: cli.Choice, scratch: Path, say: Progress) -> int:
    """Measures; returns how many workloads failed."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    binaries = choice.find_binaries()
    peers = choice.make_peers(binaries, scratch)
    await _look_around(say)
    description = machine.describe()
    options = Options(choice.n_threads, choice.rounds, choice.is_quick, scratch)
    n_failed = 0
    for position, wanted in enumerate(choice.ggufs):
        gguf = await find_gguf(wanted, scratch, say)
        async with Bench(options, gguf, peers, binaries, say) as bench:
            for workload in choice.workloads:
                if position > 0 and not workload.has_model:
                    continue
                say(f"{workload.name}: {workload.title}" + (f" ({gguf.type})" if workload.has_model else ""))
                try:
                    measured = await workload.run(bench)
                except BenchError as error:
                    say(f"  failed: {error}")
                    delete_result(workload, gguf, choice.results)  # else the table would show an earlier one as today's
                    n_failed += 1
                    await bench.stop_servers()
                    continue
                result = make_result(workload, measured, options, gguf, description)
                write_result(result, choice.results)
                sys.stdout.write(f"{plain(result)}\n")
                sys.stdout.flush()
    return n_failed


async def _look_around(say: Progress) -> None:
    """Warns if the machine is not quiet before anything has started."""
    meter = Meter()
    await asyncio.sleep(_LOOK_S)
    found = meter.read()
    if found.exceeds(LIMIT):
        say(
            f"warning: others use {found.others_ratio:.0%} of the processors here, and {found.steal_ratio:.0%} is "
            "stolen; rounds with so much are dropped and repeated"
        )


def _report(folder: Path, say: Progress) -> None:
    """The chart beside the results; the table too if they are those of the repository."""
    results = read_results(folder, tuple(workload.name for workload in all_workloads(is_quick=False)))
    try:
        write_chart(results, folder)
    except ImportError:
        say("no chart: matplotlib is missing; `make bench` installs it")
    if folder.resolve() == FOLDER.resolve():
        write_readme(results)
        say("the table in bench/README.md is up to date")
    say(f"results are in {folder}")


if __name__ == "__main__":
    main()
