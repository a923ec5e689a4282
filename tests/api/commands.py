"""Commands as an operator runs them, against a gateway of the tests."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass

from tests.gateway import Gateway


@dataclass(frozen=True)
class Said:
    status: int
    out: str
    error: str


async def start(
    gateway: Gateway,
    *arguments: str,
    url: str | None = None,
    program: tuple[str, ...] = ("-m", "appliance"),
    **variables: str,
) -> asyncio.subprocess.Process:
    """``program``: what Python runs."""
    state = {"APPLIANCE_STATE_DIR": str(gateway.state.config.state_dir)}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *program,
        *arguments,
        "--url",
        url or gateway.url,
        env={**os.environ, **state, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(gateway: Gateway, *arguments: str, url: str | None = None, **variables: str) -> Said:
    process = await start(gateway, *arguments, url=url, **variables)
    return await said(process)


async def said(process: asyncio.subprocess.Process) -> Said:
    """All that it says, once it has ended."""
    out, error = await process.communicate()
    return Said(process.returncode or 0, out.decode(), error.decode())
