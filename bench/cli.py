"""The command line of ``python -m bench``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from appliance.hardware.cpu import physical_cores
from bench import binaries
from bench.binaries import Binaries
from bench.errors import BenchError
from bench.ggufs import DEFAULT_TYPES
from bench.peers.appliance import Appliance
from bench.peers.base import LLAMA_SERVER, Peer
from bench.peers.llama_cpp_python import LlamaCppPython
from bench.peers.llama_server import LlamaServer
from bench.peers.remote import Remote
from bench.results import FOLDER
from bench.workloads.base import Workload
from bench.workloads.registry import NOT_QUICK, all_workloads

PEERS = (LLAMA_SERVER, LlamaCppPython.name)
ROUNDS = {"quick": 3, "full": 5}
EPILOG = """\
examples:
  python -m bench --quick                              what `make bench` runs, under 10 minutes
  python -m bench                                      everything; what `make bench-full` runs for both model files
  python -m bench --only one_stream,clients_8          two workloads, at full size
  python -m bench --quick --only engine_loop --results /tmp/tuning
  python -m bench --url http://10.0.0.5:8000/v1        another server beside the others

The peers are built once by `python -m bench.build_peers`. bench/README.md tells how to read the results.
"""


@dataclass(frozen=True)
class Choice:
    """What the command line asks for."""

    ggufs: tuple[str, ...]
    workloads: tuple[Workload, ...]
    n_threads: int
    rounds: int
    is_quick: bool
    results: Path
    peers: tuple[str, ...]
    llama_server: Path | None
    url: str | None

    def find_binaries(self) -> tuple[Binaries, ...]:
        """llama.cpp's programs, if a workload wants them. Raises BenchError, naming the remedy, if they are missing."""
        if LLAMA_SERVER not in self.peers or not any(workload.has_peers for workload in self.workloads):
            return ()
        return tuple(binaries.own(self.llama_server) if self.llama_server is not None else binaries.built())

    def make_peers(self, found: tuple[Binaries, ...], scratch: Path) -> tuple[Peer, ...]:
        """All servers to measure, ours first. Raises BenchError if one's packages are missing."""
        peers: list[Peer] = [Appliance(scratch / "models")]
        peers += [LlamaServer(build.server_name, build.server, build.version) for build in found]
        if LlamaCppPython.name in self.peers:
            peers.append(LlamaCppPython())
        if self.url is not None:
            peers.append(Remote(self.url))
        return tuple(peers)


def parse(words: list[str]) -> Choice:
    """Exits with a message if the command line is wrong. Raises BenchError if it names what there isn't."""
    names = [workload.name for workload in all_workloads(is_quick=False)]
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures this appliance beside its peers: same model file, threads, context and slots.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--quick", action="store_true", help="3 rounds, without llama_cpp.server and what has no target"
    )
    parser.add_argument("--only", metavar="NAMES", help=f"workloads, separated by commas: {', '.join(names)}")
    parser.add_argument(
        "--gguf",
        action="append",
        metavar="FILE",
        help=f"model file: a path, or the default model as {' or '.join(DEFAULT_TYPES)}; may be repeated [q4_0]",
    )
    parser.add_argument("--threads", type=int, default=physical_cores(), help="compute threads [%(default)s]")
    parser.add_argument("--rounds", type=int, help="rounds that must be kept of each workload [5, quick: 3]")
    parser.add_argument("--peers", metavar="NAMES", help=f"{' and '.join(PEERS)}, or none [both; quick: {PEERS[0]}]")
    parser.add_argument("--llama-server", type=Path, metavar="PATH", help="your own binary instead of the two builds")
    parser.add_argument("--url", help="an OpenAI-compatible server that runs already, to measure it as well")
    parser.add_argument(
        "--results", type=Path, default=FOLDER, metavar="FOLDER", help="where the JSON files go [bench/results]"
    )
    given = parser.parse_args(words)
    if given.threads < 1 or (given.rounds is not None and given.rounds < 1):
        parser.error("--threads and --rounds want a number above 0")
    return Choice(
        ggufs=tuple(given.gguf or ["q4_0"]),
        workloads=_workloads(given.only, is_quick=given.quick),
        n_threads=given.threads,
        rounds=given.rounds or ROUNDS["quick" if given.quick else "full"],
        is_quick=given.quick,
        results=given.results,
        peers=_peers(given.peers, is_quick=given.quick),
        llama_server=given.llama_server,
        url=given.url,
    )


def _workloads(only: str | None, *, is_quick: bool) -> tuple[Workload, ...]:
    known = all_workloads(is_quick=is_quick)
    if only is None:
        return tuple(workload for workload in known if not (is_quick and workload.name in NOT_QUICK))
    wanted = only.split(",")
    if unknown := set(wanted) - {workload.name for workload in known}:
        names = ", ".join(workload.name for workload in known)
        raise BenchError(f"--only {unknown.pop()}: there is no such workload; there are {names}")
    return tuple(workload for workload in known if workload.name in wanted)


def _peers(wanted: str | None, *, is_quick: bool) -> tuple[str, ...]:
    if wanted is None:
        return PEERS[:1] if is_quick else PEERS
    if wanted == "none":
        return ()
    if unknown := set(wanted.split(",")) - set(PEERS):
        raise BenchError(f"--peers {unknown.pop()}: want {', '.join(PEERS)}, or none")
    return tuple(wanted.split(","))
