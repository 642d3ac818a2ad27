"""Pages for people, under a policy that lets nothing else in: the one at `/`, of files of one folder, and `/docs`.

FastAPI's own `/docs` fetches scripts from the internet, which a plant's network need not have.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader

from differnet_ray.queries import Problem

PAGE = Path(__file__).parent / "page"
INDEX = "index.html"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DOCS = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template("docs.html.j2")
_HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}


def add_page(app: FastAPI, folder: Path | None = None) -> None:
    """Serves `index.html` at `/`, the other files of the folder at `/page/NAME`, and at `/docs` what can be asked.

    Args:
        app: the application.
        folder: of the files; None: the package's own.
    """
    files = {path.name: path for path in sorted((folder or PAGE).iterdir()) if path.is_file()}

    def file(name: str) -> Response:
        if name not in files:
            raise Problem(404, "there is nothing at this path")
        return FileResponse(files[name], headers=_HEADERS)

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return file(INDEX)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(DOCS.render(app.openapi()), headers=_HEADERS)

    @app.get("/page/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        return file(name)
