"""What the page fetches: its parts for a URL, pictures, scripts, downloads; and what it sends: pictures, judgements."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from gcl_toolkit.app import grading, limits, mapping
from gcl_toolkit.app.export import to_csv, to_html
from gcl_toolkit.app.page import SCRIPTS, content, fitting
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State
from gcl_toolkit.app.tabs import queries
from gcl_toolkit.errors import UserError

FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}
NEVER = {"Cache-Control": "no-store"}
NO_GUESSING = {"X-Content-Type-Options": "nosniff"}
OURS = "x-gcl"
"""A header of every POST of the page. Other sites' pages can't send it, so they can't grade."""
LOCAL = {"127.0.0.1", "::1", "localhost"}
BYTES = "application/octet-stream"
TEXT, HTML, CSV, SCRIPT = (f"text/{kind}; charset=utf-8" for kind in ("plain", "html", "csv", "javascript"))


def add_routes(app: FastAPI, service: Service, host: str = "127.0.0.1") -> None:
    """Routes under gcl/, besides gradio's own. host: of the server; a local one takes no POST under another name, which
    a site may have pointed at this machine."""
    routes = Routes(app, limits.MAX_RUNNING, limits.MAX_WAITING, LOCAL if host in LOCAL else None)

    def of_state(draw: Callable[[Service, State], str | bytes]) -> Callable[[dict], str | bytes]:
        return lambda options: draw(service, fitting(service, service.state(options)))

    def picture(options: dict, item: str) -> bytes:
        return service.image(int(item) if item.isdecimal() and len(item) < 12 else -1)

    get, post = routes.get, routes.post
    get("view", HTML, lambda options: content(service, options))
    for name, script in SCRIPTS.items():
        get(name, SCRIPT, lambda options, script=script: script, FOREVER)
    get("plotly.js", SCRIPT, lambda options: _plotly(), FOREVER)
    get("picture/{item}", "image/webp", picture, FOREVER)
    get("upload/{digest}", "image/webp", lambda options, digest: service.encoders.picture(digest), FOREVER)
    get("points/{model}", BYTES, lambda options, model: mapping.points(service, model).tobytes(), FOREVER)
    get("point/{row}", "application/json", lambda options, row: _point(service, row), FOREVER)
    get("colours", BYTES, of_state(lambda *state: mapping.colours(*state).tobytes()))
    for name, media, draw in (
        ("queries.csv", CSV, _queries_csv),
        ("selection.csv", CSV, lambda *state: to_csv(mapping.selected(*state))),
        ("comparison.html", HTML, to_html),
        ("verdict.html", HTML, to_html),
        ("qrels.txt", TEXT, grading.qrels),
        ("judgements.txt", TEXT, lambda service, state: grading.judgements(service, "trec")),
        ("judgements.csv", CSV, lambda service, state: grading.judgements(service, "csv")),
    ):
        get(name, media, of_state(draw), NEVER | {"Content-Disposition": f'attachment; filename="{name}"'})
    post("upload", TEXT, limits.MAX_UPLOAD, lambda options, body: service.encoders.keep(body))
    post("grade", "application/json", limits.MAX_GRADE, lambda options, body: grading.grade(service, options, body))
    post("qrels", "application/json", limits.MAX_QRELS, lambda options, body: grading.add(service, options, body))


class Routes:
    """At most `running` answers at once, and `waiting` requests that wait for one; further ones are refused."""

    def __init__(self, app: FastAPI, running: int, waiting: int, hosts: set[str] | None):
        self.app, self.free, self.most, self.inside = app, asyncio.Semaphore(running), running + waiting, 0
        self.hosts = hosts

    def get(self, path: str, media: str, answer: Callable[..., Any], headers: Mapping[str, str] = NEVER) -> None:
        """Answer gcl/`path` with `answer(options of the query string, **parameters of the path)`."""

        async def respond(request: Request) -> Response:
            options = dict(request.query_params)
            return await self._answer(request, lambda: answer(options, **request.path_params), media, headers)

        self.app.get(f"/gcl/{path}", include_in_schema=False)(respond)

    def post(self, path: str, media: str, most: int, answer: Callable[[dict, bytes], str]) -> None:
        """Answer what the page sends to gcl/`path` with `answer(options of the query string, body)`."""

        async def respond(request: Request) -> Response:
            if OURS not in request.headers or (self.hosts and request.url.hostname not in self.hosts):
                return _refusal("This is for the page's own requests.", 403)
            body = await _body(request, most)
            if body is None:
                return _refusal(f"This is too large; at most {most:,} bytes are allowed.", 413)
            options = dict(request.query_params)
            return await self._answer(request, lambda: answer(options, body), media, NEVER)

        self.app.post(f"/gcl/{path}", include_in_schema=False)(respond)

    async def _answer(self, request: Request, compute: Callable, media: str, headers: Mapping[str, str]) -> Response:
        """A visitor who has left before the turn came gets none."""
        if self.inside >= self.most:
            return _refusal("The server is busy; try again in a second.", 503, {"Retry-After": "1"})
        self.inside += 1
        try:
            async with self.free:
                body = "" if await request.is_disconnected() else await run_in_threadpool(compute)
        except UserError as error:
            return _refusal(str(error), 400)
        finally:
            self.inside -= 1
        return Response(body, 200, {**NO_GUESSING, **headers}, media)


def _refusal(text: str, status: int, headers: Mapping[str, str] = NEVER) -> Response:
    return Response(text, status, {**NO_GUESSING, **headers}, TEXT)


async def _body(request: Request, most: int) -> bytes | None:
    """What was sent; None if it is larger, of which no more is read."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            return None
    return bytes(body)


@lru_cache(1)
def _plotly() -> str:
    from gcl_toolkit.views.figures import plotly_js

    return plotly_js()


def _point(service: Service, row: str) -> str:
    """The title of a point of the map, and whether it has a picture."""
    items = len(service.bundle.items)
    place = limits.row("point", row, items + len(service.bundle.queries)) or 0
    if place >= items:
        label = service.label(place - items)
        return json.dumps({"title": f"query: {label}", "picture": False, "query": label})
    return json.dumps({"title": service.product(place, 0, 0.0).title, "picture": bool(service.image(place))})


def _queries_csv(service: Service, state: State) -> str:
    a, *also, b = service.systems_of(state)
    names = {letter: f"{state.metric} {name}" for letter, name in zip("abcde", (a, b, *also), strict=False)}
    return to_csv(queries.chosen(service, state).drop(columns="row").rename(columns=names))
