"""`/console`: a page for people over the gateway's own API. Its files stand beside this one; it asks no other host."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

FILES = Path(__file__).parent
# Scripts, styles and answers of this host alone, and in nobody's frame, where a click could be stolen.
POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


def add_console(app: FastAPI) -> None:
    """Serves the page and its files."""

    @app.get("/console", include_in_schema=False)
    async def console() -> FileResponse:
        return FileResponse(FILES / "console.html", headers={"content-security-policy": POLICY})

    app.mount("/console/files", StaticFiles(directory=FILES / "files"), name="console")
