"""``python -m bench.probes.quantize SOURCE TARGET N_THREADS``: writes a model's file as Q4_0."""

from __future__ import annotations

import ctypes
import json
import sys

from appliance.engine.llama.library import lib


def main() -> None:
    source, target, n_threads = sys.argv[1:]
    lib.llama_backend_init()
    params = lib.llama_model_quantize_default_params()
    # From Q4_1, which has lost some already: good enough to measure speed.
    params.allow_requantize = True
    params.ftype = lib.LLAMA_FTYPE_MOSTLY_Q4_0
    params.nthread = int(n_threads)
    status = lib.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
    if status != 0:
        sys.exit(f"llama_model_quantize returned {status}")
    sys.stdout.write(json.dumps({"ftype": params.ftype}))


if __name__ == "__main__":
    main()
