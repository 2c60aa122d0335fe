"""What the page fetches besides gradio's events: pictures, downloads, plotly's script. Read-only."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from gcl_toolkit.app import limits, mapping
from gcl_toolkit.app.export import to_csv, to_html
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import State
from gcl_toolkit.app.tabs import queries
from gcl_toolkit.errors import UserError

FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}
NO_GUESSING = {"X-Content-Type-Options": "nosniff"}


def add_routes(app: FastAPI, service: Service) -> None:
    """Routes under gcl/, besides gradio's own."""

    def picture(options: dict, item: str) -> bytes:
        return service.image(int(item) if item.isdecimal() and len(item) < 12 else -1)

    def upload(options: dict, digest: str) -> bytes:
        return service.encoders.picture(digest)

    def points(options: dict, model: str) -> bytes:
        return mapping.points(service, model).tobytes()

    def point(options: dict, row: str) -> str:
        items = len(service.bundle.items)
        place = limits.row("point", row, items + len(service.bundle.queries)) or 0
        if place >= items:
            return json.dumps({"title": f"query: {service.label(place - items)}", "picture": False})
        return json.dumps({"title": service.product(place, 0, 0.0).title, "picture": bool(service.image(place))})

    def of_state(draw: Callable[[Service, State], str | bytes]) -> Callable[[dict], str | bytes]:
        return lambda options: draw(service, service.state(options))

    _serve(app, "picture/{item}", "image/webp", picture, FOREVER)
    _serve(app, "upload/{digest}", "image/webp", upload, FOREVER)
    _serve(app, "plotly.js", "text/javascript; charset=utf-8", lambda options: _plotly(), FOREVER)
    _serve(app, "points/{model}", "application/octet-stream", points, FOREVER)
    _serve(app, "point/{row}", "application/json", point, FOREVER)
    _serve(app, "colours", "application/octet-stream", of_state(lambda *state: mapping.colours(*state).tobytes()))
    _serve(app, "queries.csv", "text/csv; charset=utf-8", of_state(queries_csv), _named("queries.csv"))
    _serve(app, "selection.csv", "text/csv; charset=utf-8", of_state(selection_csv), _named("selection.csv"))
    _serve(app, "comparison.html", "text/html; charset=utf-8", of_state(to_html), _named("comparison.html"))


def _serve(app: FastAPI, path: str, media: str, answer: Callable[..., Any], headers: dict[str, str] | None = None):
    """Add gcl/`path`, answered by `answer(options of the query string, **parameters of the path)`."""

    def respond(request: Request) -> Response:
        try:
            content = answer(dict(request.query_params), **request.path_params)
        except UserError as error:
            return Response(str(error), 400, NO_GUESSING, "text/plain; charset=utf-8")
        return Response(content, 200, {**NO_GUESSING, **(headers or {})}, media)

    app.get(f"/gcl/{path}", include_in_schema=False)(respond)


@lru_cache(1)
def _plotly() -> str:
    from gcl_toolkit.views.figures import plotly_js

    return plotly_js()


def queries_csv(service: Service, state: State) -> str:
    names = {"a": f"{state.metric} {state.a}", "b": f"{state.metric} {state.b}"}
    return to_csv(queries.chosen(service, state).rename(columns=names))


def selection_csv(service: Service, state: State) -> str:
    return to_csv(mapping.selected(service, state))


def _named(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}
