"""The page at ``/`` and its files: static, and forbidden to load anything from elsewhere."""

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

_FILES = Path(__file__).parent / "page"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI) -> None:
    """Adds the page to the application."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(_FILES / "index.html", headers=HEADERS)

    app.mount("/page", _Files(directory=_FILES))


class _Files(StaticFiles):
    """The page's files, with its headers."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file."""
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        if path.endswith(".mjs"):  # the system's table of types may not know it
            response.headers["Content-Type"] = "text/javascript; charset=utf-8"
        return response
