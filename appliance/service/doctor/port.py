"""The port that the server listens on."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

from appliance.schemas.doctor import Finding
from appliance.service.doctor.subject import Subject


def check_port(subject: Subject) -> Iterator[Finding]:
    config, name = subject.config, "port"
    if config.port == 0:
        yield Finding(name=name, status="ok", message="port=0: a free one is taken at the start")
        return
    holder = subject.tools.holder_of_port(config.port)
    if holder is not None and holder == subject.running_pid:
        yield Finding(name=name, status="ok", message=f"the running appliance (pid {holder}) has port {config.port}")
        return
    problem = _try_out(config.host, config.port)
    if problem is None:
        yield Finding(name=name, status="ok", message=f"{config.port} on {config.host} is free")
        return
    code, text = problem
    remedy = "choose an address of this machine (APPLIANCE_HOST)"
    if code == errno.EADDRINUSE:
        by = f"pid {holder}" if holder is not None else "a process that can't be seen from here"
        if holder is None and subject.running_pid is not None:
            by += f"; pid {subject.running_pid} holds the state folder"
        text = f"it is in use by {by}"
        remedy = f"stop it{f' (kill {holder})' if holder is not None else ''}, or choose another (APPLIANCE_PORT)"
    elif code == errno.EACCES:
        remedy = "choose a port above 1023 (APPLIANCE_PORT)"
    message = f"{config.port} on {config.host} can't be had: {text}"
    yield Finding(name=name, status="failed", message=message, remedy=remedy)


def _try_out(host: str, port: int) -> tuple[int | None, str] | None:
    """What keeps a server from listening there: the error's number and text; None if nothing does."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        return None, f"the name isn't known ({error})"
    family, _, _, _, address = found[0]
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            return error.errno, error.strerror or str(error)
    return None
