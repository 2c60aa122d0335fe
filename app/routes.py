"""What the page fetches besides gradio's events: pictures, files to save, plotly's script. Read-only."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from app import limits, mapping
from app.export import to_csv, to_html
from app.service import Service
from app.state import State
from app.tabs import queries
from gcl_toolkit.errors import UserError

FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}
NO_GUESSING = {"X-Content-Type-Options": "nosniff"}


def add_routes(app: FastAPI, service: Service) -> None:
    """Under gcl/, beside gradio's own."""

    def serve(path: str, media: str, answer: Callable[..., Any], headers: dict[str, str] | None = None) -> None:
        def respond(request: Request) -> Response:
            try:
                content = answer(**{**request.path_params, "said": dict(request.query_params)})
            except UserError as error:
                return Response(str(error), 400, NO_GUESSING, "text/plain; charset=utf-8")
            return Response(content, 200, {**NO_GUESSING, **(headers or {})}, media)

        app.get(f"/gcl/{path}", include_in_schema=False)(respond)

    def picture(item: str, said: dict) -> bytes:
        return service.image(int(item) if item.isdecimal() and len(item) < 12 else -1)

    def upload(digest: str, said: dict) -> bytes:
        return service.encoders.picture(digest)

    def point(row: str, said: dict) -> str:
        items = len(service.bundle.items)
        place = limits.row("point", row, items + len(service.bundle.queries)) or 0
        if place >= items:
            return json.dumps({"title": f"query: {service.label(place - items)}", "picture": False})
        return json.dumps({"title": service.product(place, 0, 0.0).title, "picture": bool(service.image(place))})

    def saved(draw: Callable[[Service, State], str]) -> Callable[..., str]:
        return lambda said: draw(service, service.state(said))

    @lru_cache(1)
    def script() -> str:
        from gcl_toolkit.figures import plotly_js

        return plotly_js()

    serve("picture/{item}", "image/webp", picture, FOREVER)
    serve("upload/{digest}", "image/webp", upload, FOREVER)
    serve("plotly.js", "text/javascript; charset=utf-8", lambda said: script(), FOREVER)
    serve(
        "points/{model}",
        "application/octet-stream",
        lambda model, said: mapping.points(service, model).tobytes(),
        FOREVER,
    )
    serve("colours", "application/octet-stream", lambda said: mapping.colours(service, service.state(said)).tobytes())
    serve("point/{row}", "application/json", point, FOREVER)
    serve("queries.csv", "text/csv; charset=utf-8", saved(queries_csv), _named("queries.csv"))
    serve("selection.csv", "text/csv; charset=utf-8", saved(selection_csv), _named("selection.csv"))
    serve("comparison.html", "text/html; charset=utf-8", saved(to_html), _named("comparison.html"))


def queries_csv(service: Service, state: State) -> str:
    names = {"a": f"{state.metric} {state.a}", "b": f"{state.metric} {state.b}"}
    return to_csv(queries.chosen(service, state).rename(columns=names))


def selection_csv(service: Service, state: State) -> str:
    return to_csv(mapping.selected(service, state))


def _named(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}
