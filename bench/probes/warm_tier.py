"""``python -m bench.probes.warm_tier GGUF N_THREADS N_STEPS``: what saving prefixes does to the streams beside it.

Eight sequences decode, in blocks of N_STEPS steps. In every second block a prefix that was used twice is saved, as the
engine's loop does it while it computes: copied between two steps, and written by the other thread.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from pathlib import Path

from appliance.engine.core import EngineCore
from appliance.engine.kv_file import KVKey
from appliance.engine.kv_folder import KVFolder
from appliance.engine.kv_keeper import KVKeeper
from appliance.engine.llama.backend import LlamaBackend
from appliance.engine.messages import Submit
from appliance.engine.params import SamplingParams
from appliance.engine.warm_tier import BUSY_INTERVAL_STEPS
from bench.engine_config import engine_config
from bench.summary import percentile

N_STREAMS = 8
N_PREFIX = 1000
N_BLOCKS = 10
N_PROMPT = 16
N_CTX = 32768


def main() -> None:
    gguf, n_threads, n_steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    config = engine_config(gguf, n_ctx=N_CTX, n_threads=n_threads, max_running=32)
    with LlamaBackend(config) as backend, tempfile.TemporaryDirectory(prefix="bench-kv-") as folder:
        key = KVKey("bench", backend.info.build, config.type_k, config.type_v)
        keeper = KVKeeper(KVFolder(Path(folder), key, max_bytes=4 << 30), lambda: None)
        core = EngineCore(backend, n_batch=config.n_batch, max_running=32, prefix_reuse=True, keeper=keeper)
        draw = random.Random(1)

        def tokens(n_tokens: int) -> tuple[int, ...]:
            return tuple(draw.randrange(100, backend.info.n_vocab) for _ in range(n_tokens))

        for number in range(N_BLOCKS // 2):
            prefix = tokens(N_PREFIX)
            for turn in range(2):
                core.submit(_submit(f"prefix {number} {turn}", prefix, 2))
                _finish(core)
        n_total = N_BLOCKS * n_steps + BUSY_INTERVAL_STEPS
        for number in range(N_STREAMS):
            core.submit(_submit(str(number), tokens(N_PROMPT), n_total + 100))
        for _ in range(BUSY_INTERVAL_STEPS):  # from here on a copy is due as soon as it may be
            core.step()
        gaps_s: dict[bool, list[float]] = {True: [], False: []}
        for block in range(N_BLOCKS):
            is_saving = block % 2 == 1
            for _ in range(n_steps):
                begun_s = time.perf_counter()
                core.step()
                if is_saving:
                    core.submit_ready()
                    core.save_due()
                gaps_s[is_saving].append(time.perf_counter() - begun_s)
        core.submit_ready()
        core.abort_all("", "measured")
        core.save_all(0.0)
        core.close()
        print_figures(gaps_s, core)


def print_figures(gaps_s: dict[bool, list[float]], core: EngineCore) -> None:
    counts = core.load.warm_tier
    figures = {
        "saving_p99_s": percentile(gaps_s[True], 0.99),
        "other_p99_s": percentile(gaps_s[False], 0.99),
        "saving_p50_s": percentile(gaps_s[True], 0.5),
        "other_p50_s": percentile(gaps_s[False], 0.5),
        "saving_max_s": max(gaps_s[True]),
        "other_max_s": max(gaps_s[False]),
        "n_saved": counts.n_saved if counts is not None else 0,
    }
    sys.stdout.write(json.dumps(figures))


def _submit(request_id: str, tokens: tuple[int, ...], max_tokens: int) -> Submit:
    params = SamplingParams(temperature=0)
    return Submit(request_id, tokens=tokens, params=params, max_tokens=max_tokens, ignore_eos=True)


def _finish(core: EngineCore) -> None:
    while not core.is_idle:
        core.step()


if __name__ == "__main__":
    main()
