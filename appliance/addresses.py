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
