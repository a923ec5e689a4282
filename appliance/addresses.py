"""Network addresses in words."""

from __future__ import annotations

import ipaddress


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach ``address``, a number or localhost."""
    if address.lower() == "localhost":
        return True
    return is_address(address) and ipaddress.ip_address(address).is_loopback


def pid_listening_on(port: int) -> int | None:
    """The process that has the TCP port; None if none has, or the system doesn't say which."""
    import psutil

    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return None
    listening = (c for c in connections if c.status == psutil.CONN_LISTEN)
    return next((c.pid for c in listening if getattr(c.laddr, "port", None) == port), None)
