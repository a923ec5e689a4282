"""``python -m appliance.engine.llama FD LEVEL FORMAT``: an engine process, over the socket it inherited as FD."""

from __future__ import annotations

import os
import socket
import sys

from appliance import logs
from appliance.engine.llama.backend import LlamaBackend
from appliance.engine.runner import run_engine


def main() -> None:
    logs.configure(*sys.argv[2:4])
    # When ggml aborts, it would attach a debugger to print a stack trace, and hang where that can't be.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        run_engine(connection, LlamaBackend)


if __name__ == "__main__":
    main()
