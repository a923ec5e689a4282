"""Which server a command talks to, and what it shows to it."""

from __future__ import annotations

import contextlib
import os

from appliance import settings
from appliance.state.keys import ADMIN_TOKEN


def default_url(config: settings.Settings) -> str:
    """Where a server with these settings is reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    host = f"[{host}]" if ":" in host else host
    scheme = "http" if config.tls_cert is None else "https"
    return f"{scheme}://{host}:{config.port}{config.root_path}"


def key(config: settings.Settings) -> str | None:
    """What is shown to the server: the key of the environment, or the admin token if it can be read."""
    found = os.environ.get(settings.KEY_VARIABLE)
    if found is None:
        with contextlib.suppress(OSError):
            found = (config.state_dir / ADMIN_TOKEN).read_text().strip()
    return found or None
