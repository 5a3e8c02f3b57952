"""The page's files and its few questions beside the schema's, as routes for the gateway's HTTP side."""

from __future__ import annotations

import importlib.resources
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ebbtide.data.errors import DataError
from ebbtide.interest import served_models
from ebbtide.studio.titles import StudioData

_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "studio.css": "text/css; charset=utf-8",
    "main.js": "text/javascript; charset=utf-8",
    "server.js": "text/javascript; charset=utf-8",
    "view.js": "text/javascript; charset=utf-8",
    "words.js": "text/javascript; charset=utf-8",
}
_HEADERS = {
    # Nothing from elsewhere is loaded, run or called, and no other page may frame this one.
    "content-security-policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_JSON = "application/json"
_MOST_TITLES = 1024
_LONGEST = 256
"""Characters of a search or of a user's id."""


def pages(data: StudioData) -> list[Route]:
    """The routes of the page: ``/`` and its files, and ``/studio/...`` for titles, users and what the server offers.

    Args:
        data: Titles and logged events.
    """

    async def search(request: Request) -> Response:
        return _json({"items": data.search(request.query_params.get("words", "")[:_LONGEST])})

    async def titles(request: Request) -> Response:
        return _json({"titles": data.titles(request.query_params.getlist("item_id")[:_MOST_TITLES])})

    async def users(_: Request) -> Response:
        return _json({"users": data.examples()})

    async def events(request: Request) -> Response:
        try:
            return _json({"events": data.events(request.query_params.get("user_id", "")[:_LONGEST])})
        except DataError as error:
            return _json({"detail": str(error)}, 404)

    async def offers(request: Request) -> Response:
        client = request.app.state.client
        if not await client.is_ready():
            return _json({"detail": "Triton is not ready"}, 503)
        return _json({"slates": await client.is_ready(served_models.RECOMMEND_SLATE.name)})

    return [
        Route("/", _file("index.html")),
        *(Route(f"/studio/{name}", _file(name)) for name in _TYPES if name != "index.html"),
        Route("/studio/search", search),
        Route("/studio/titles", titles),
        Route("/studio/users", users),
        Route("/studio/events", events),
        Route("/studio/offers", offers),
    ]


def _file(name: str) -> Callable[[Request], Awaitable[Response]]:
    content = importlib.resources.files("ebbtide.studio").joinpath("static", name).read_bytes()

    async def send(_: Request) -> Response:
        return Response(content, headers={**_HEADERS, "content-type": _TYPES[name]})

    return send


def _json(content: Any, status: int = 200) -> Response:  # noqa: ANN401 - whatever msgspec encodes
    return Response(msgspec.json.encode(content), status, _HEADERS, _JSON)
