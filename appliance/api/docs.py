"""``/docs``: the interactive documentation, with its scripts from a package instead of the internet."""

from __future__ import annotations

from pathlib import Path

import swagger_ui_bundle
from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import FileResponse

from appliance.errors import NotFound

router = APIRouter(include_in_schema=False)

_FOLDER = Path(swagger_ui_bundle.swagger_ui_path)
_FILES = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")


@router.get("/docs")
async def docs() -> Response:
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title="LLM appliance",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon-32x32.png",
    )


@router.get("/docs/{name}")
async def docs_file(name: str) -> Response:
    if name not in _FILES:
        raise NotFound(f"/docs has no {name!r}")
    return FileResponse(_FOLDER / name)
