"""Options that many commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Url = Annotated[str | None, typer.Option(help="Address of the server. [default: from the settings]")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
