"""What tests of the admin API share."""

from __future__ import annotations

from typing import Any

import httpx

from appliance.hardware.memory_use import RAM
from appliance.supervisor.supervisor import Rules
from tests.gateway import Gateway
from tests.machine_room import MIB

BIG = 800 * MIB
TWO = {"a": BIG, "b": BIG}
# Of two large models one fits.
ONE_FITS: dict[str, Any] = {"models": TWO, "limits": {RAM: 1200 * MIB}, "rules": Rules(max_wait_s=0.0)}


async def get(gateway: Gateway, path: str) -> Any:
    response = await gateway.http.get(path, headers=gateway.admin)
    assert response.status_code == 200, response.text
    return response.json()


async def post(gateway: Gateway, path: str, body: Any = None) -> httpx.Response:
    return await gateway.http.post(f"/admin/models/{path}", json=body, headers=gateway.admin)


async def done(gateway: Gateway, path: str, body: Any = None) -> dict[str, Any]:
    response = await post(gateway, path, body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def error(response: httpx.Response) -> tuple[int, str, str]:
    found = response.json()["error"]
    return response.status_code, found["code"], found["message"]


async def states(gateway: Gateway) -> dict[str, str]:
    return {model["name"]: model["state"] for model in (await get(gateway, "/admin/status"))["models"]}
