"""``python -m appliance.engine.llama FD LEVEL FORMAT``: an engine process, over the socket it inherited as FD."""

from __future__ import annotations

import os
import signal
import socket
import sys


def main() -> None:
    # The gateway stops its engines itself, when their requests have ended. A Ctrl-C in the terminal, or a service
    # manager, sends its signal to the gateway and to the engines at once; and the imports below take a while.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # When ggml aborts, it would attach a debugger to print a stack trace, and hang where that can't be.
    os.environ["GGML_NO_BACKTRACE"] = "1"

    from appliance import logs
    from appliance.engine.llama.backend import LlamaBackend
    from appliance.engine.llama.embedder import LlamaEmbedder
    from appliance.engine.runner import run_engine

    logs.configure(sys.argv[2], sys.argv[3])
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        run_engine(connection, LlamaBackend, LlamaEmbedder)


if __name__ == "__main__":
    main()
