"""The studio's files, served at / to everybody who reaches the server. They tell nothing, and ask as any client does.

The files lie in studio/ beside this one. They are read once, so nothing but what is there by then can be asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

FOLDER = Path(__file__).parent / "studio"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# No script, style or picture but the server's own, none of them within the page; it can call nobody else.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    body: bytes
    headers: dict[str, str]

    def answer(self, request: Request) -> Response:
        """The file, or that the client has it already."""
        if self.headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(None, 304, self.headers)
        return Response(self.body, 200, self.headers)


def _read(folder: Path) -> Iterator[_File]:
    for file in sorted(folder.rglob("*")):
        if kind := _TYPES.get(file.suffix):
            body = file.read_bytes()
            tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            path = "/" if file.name == "index.html" else f"/studio/{file.relative_to(folder).as_posix()}"
            yield _File(path, body, _HEADERS | {"ETag": tag, "Content-Type": kind})


FILES = {file.path: file for file in _read(FOLDER)}


def page_routes() -> APIRouter:
    router = APIRouter(include_in_schema=False)

    async def send(request: Request) -> Response:
        return FILES[request.scope["route"].path].answer(request)

    for path in FILES:
        router.add_api_route(path, send, methods=["GET", "HEAD"])
    return router
