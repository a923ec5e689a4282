"""``python -I sandbox.py LIMIT_BYTES SCRIPT ARGUMENTS``: runs a script without network and with bounded memory.

It is run by the converter's Python, which has none of the appliance's packages: nothing of it may be imported here.
"""

import ctypes
import os
import resource
import runpy
import sys

# sched.h
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


_REFUSED = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind", "socket.getaddrinfo"}


def _refuse(event: str, _: object) -> None:
    if event in _REFUSED:
        raise OSError("conversion has no network")


def _leave_network() -> None:
    """A network namespace of its own where the kernel allows one; in any case Python's sockets reach nobody."""
    # Root in a user namespace of its own could no longer write to other users' folders.
    flags = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWUSER | _CLONE_NEWNET
    try:
        ctypes.CDLL(None).unshare(flags)
    except (OSError, AttributeError):
        pass
    sys.addaudithook(_refuse)  # which nothing can take away again


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
