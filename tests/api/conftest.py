from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.gateway import Gateway, run_gateway


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway() -> AsyncIterator[Gateway]:
    """One for all tests of a file, for those that leave it as it was."""
    async with run_gateway() as running:
        yield running
