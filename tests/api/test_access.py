"""Who may call what."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute

from appliance.api.access import Access, access_of
from appliance.api.app import create_api
from appliance.api.server import ServerOptions
from tests.gateway import Gateway, run_gateway

KEY = "sk-0123456789abcdef"
OTHER = "sk-fedcba9876543210"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# the apps\n{KEY} name=app weight=2\n\n{OTHER} scope=shared # another\n")
    return path


@pytest.fixture
async def guarded(key_file: Path) -> AsyncIterator[Gateway]:
    async with run_gateway(keys=key_file) as gateway:
        yield gateway


def routes(gateway: Gateway) -> list[tuple[str, str]]:
    """Every method and path that the application has."""
    found: list[tuple[str, str]] = []

    def walk(items: object) -> None:
        for item in items:  # type: ignore[attr-defined]
            if isinstance(item, APIRoute):
                found.extend((method, item.path) for method in item.methods)
            elif hasattr(item, "path"):
                found.append(("GET", item.path))
            else:
                walk(item.original_router.routes)  # what include_router leaves

    walk(create_api(gateway.state).routes)
    return found


async def test_every_route_has_a_declared_access_and_keeps_it(guarded: Gateway) -> None:
    known = routes(guarded)
    assert ("POST", "/v1/chat/completions") in known
    assert len(known) > 12
    for method, path in known:
        access = access_of(path)
        assert access is not None, f"{method} {path} has no declared access"
        concrete = path.replace("{model:path}", "m").replace("{", "").replace("}", "")
        for token, status in ((None, 401), ("sk-wrong-0123456789", 401), (KEY, 403)):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            response = await guarded.http.request(method, concrete, headers=headers)
            if access is Access.OPEN:
                assert response.status_code == 200, path
            elif access is Access.ADMIN:
                assert response.status_code == (401 if token is None else 403), path
            elif token == KEY:
                assert response.status_code not in (401, 403), path
            else:
                assert response.status_code == status, path
                assert response.json()["error"]["code"] == "invalid_api_key"
        async with guarded.http.stream(method, concrete, headers=guarded.admin) as response:
            assert response.status_code not in (401, 403), path  # some go on for ever


async def test_a_path_that_is_not_declared_is_not_found(guarded: Gateway) -> None:
    for path in ("/", "/v2/chat/completions", "/internal"):
        assert (await guarded.http.get(path)).status_code == 404


async def test_each_key_has_its_own_prefixes_unless_they_share_a_scope(guarded: Gateway) -> None:
    async def cached(key: str) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
        response = await guarded.http.post("/v1/chat/completions", json=body, headers=headers)
        return int(response.json()["usage"]["prompt_tokens_details"]["cached_tokens"])

    assert [await cached(KEY), await cached(OTHER), await cached(KEY)] == [0, 0, 4]


async def test_the_key_file_is_read_again_when_it_changes(guarded: Gateway, key_file: Path) -> None:
    async def status(key: str) -> int:
        response = await guarded.http.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
        return response.status_code

    new = "sk-a-new-key-00000000"
    assert await status(new) == 401
    key_file.write_text(f"{new}\n")
    assert [await status(new), await status(KEY)] == [200, 401]
    key_file.write_text("short\n")
    assert await status(new) == 200
    key_file.unlink()
    assert await status(new) == 200


async def test_without_keys_inference_is_open_and_administration_is_not() -> None:
    async with run_gateway() as gateway:
        assert (await gateway.chat()).status_code == 200
        assert (await gateway.http.get("/admin/status")).status_code == 401
        assert (await gateway.http.get("/admin/status", headers=gateway.admin)).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8080", 200),
        ("[::1]", 200),
        ("10.1.2.3", 200),
        ("llm.example:8080", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
    ],
)
async def test_only_known_names_are_answered(host: str, status: int) -> None:
    async with run_gateway() as gateway:
        response = await gateway.http.get("/v1/models", headers={"Host": host})
        assert response.status_code == status


async def test_probes_may_call_by_any_name() -> None:
    async with run_gateway() as gateway:
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert (await gateway.http.get(path, headers={"Host": "probe.internal"})).status_code == 200


async def preflight(gateway: Gateway) -> httpx.Response:
    headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    return await gateway.http.options("/v1/chat/completions", headers=headers)


async def test_no_cors_header_is_sent_until_origins_are_configured() -> None:
    async with run_gateway() as gateway:
        for response in (
            await preflight(gateway),
            await gateway.http.get("/v1/models", headers={"Origin": "https://app.example"}),
        ):
            assert not any(name.startswith("access-control") for name in response.headers)


async def test_configured_origins_may_call() -> None:
    async with run_gateway(cors_origins=("https://app.example",)) as gateway:
        response = await preflight(gateway)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        other = await gateway.http.get("/v1/models", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


async def test_behind_a_proxy_everything_stands_under_the_root_path(key_file: Path) -> None:
    # The proxy takes /llm off before it passes a request on.
    async with run_gateway(keys=key_file, server=ServerOptions(root_path="/llm")) as gateway:
        key = {"Authorization": f"Bearer {KEY}"}
        assert (await gateway.http.get("/v1/models")).status_code == 401
        assert (await gateway.http.get("/v1/models", headers=key)).status_code == 200
        assert (await gateway.http.get("/health/ready")).status_code == 200
        assert (await gateway.http.get("/admin/status", headers=key)).status_code == 403
        page = (await gateway.http.get("/docs", headers=key)).text
        assert "'openapi.json'" in page
        assert (await gateway.http.get("/docs/swagger-ui.css", headers=key)).status_code == 200
        assert (await gateway.http.get("/openapi.json", headers=key)).json()["servers"] == [{"url": "/llm"}]


async def test_the_admin_token_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    from appliance.state.keys import AdminToken

    old = os.umask(0)
    try:
        token = AdminToken(tmp_path)
    finally:
        os.umask(old)
    assert token.path.stat().st_mode & 0o777 == 0o600
    text = token.path.read_text().strip()
    assert AdminToken(tmp_path).matches(text)
    assert not token.matches(text + "x")
