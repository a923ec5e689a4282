"""``python -I sandbox.py LIMIT_BYTES SCRIPT ARGUMENTS``: runs a script without network and with bounded memory.

It is run by the converter's Python, which has none of the appliance's packages: nothing of it may be imported here.
"""

import ctypes
import os
import resource
import runpy
import socket
import sys

# sched.h
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def _refuse(*_: object, **__: object) -> None:
    raise OSError("conversion has no network")


def _leave_network() -> None:
    """A network namespace of its own where the kernel allows one; in any case no Python code opens a connection."""
    try:
        ctypes.CDLL(None).unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    except (OSError, AttributeError):
        pass
    socket.socket.connect = _refuse  # type: ignore[method-assign]
    socket.socket.connect_ex = _refuse  # type: ignore[method-assign,assignment]
    socket.getaddrinfo = _refuse  # type: ignore[assignment]


def main() -> None:
    limit, script, *arguments = sys.argv[1:]
    if hasattr(resource, "RLIMIT_DATA") and sys.platform == "linux":
        # Counts what is allocated, not the weights that are mapped.
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))
    _leave_network()
    sys.argv = [script, *arguments]
    sys.path.insert(0, os.path.dirname(script))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
