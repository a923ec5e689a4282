"""``python -m tests.fake_engine FD LEVEL FORMAT``: a real engine process with the fake backend."""

from __future__ import annotations

import socket
import sys

from appliance import logs
from appliance.engine.runner import run_engine
from tests.fake_backend import load_fake
from tests.fake_embedder import load_fake_embedder

if __name__ == "__main__":
    logs.configure(sys.argv[2], sys.argv[3])
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        run_engine(connection, load_fake, load_fake_embedder)
