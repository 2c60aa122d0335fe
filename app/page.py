"""The page: controls, tabs, and which input redraws which view. All answers and checks are `service.py`'s."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from app import draw
from app.api import add_api
from app.controls import CONTROLS, HIDDEN, OWNERS, REDRAW, make, update
from app.service import Service
from app.tabs import about, compare, map, playground, queries, search, training
from app.tabs.map import MAP
from gcl_toolkit.errors import UserError

HERE = Path(__file__).parent
TABS: dict[str, Any] = {
    "search": search,
    "compare": compare,
    "queries": queries,
    "map": map,
    "playground": playground,
    "training": training,
    "about": about,
}
TITLE = "GCL Toolkit"
QUIET: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"}


class Page:
    """The page for one bundle: `blocks` is gradio's."""

    def __init__(self, service: Service):
        self.service = service
        start = service.state()
        with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(600, 600)) as self.blocks:
            gr.HTML(_header(service), js_on_load=None, apply_default_css=False)
            self.tab = gr.State(start.tab)
            self.controls = {name: gr.State("") for name in HIDDEN}
            with gr.Row(elem_id="controls"):
                self._add(start, "query", "a", "b", "split")
            self.views: dict[str, gr.HTML] = {}
            with gr.Tabs(selected=start.tab, elem_id="tabs") as self.tabs:
                self.places = {name: self._tab(name, start) for name in TABS}
            self._connect()
            add_api(service)

    def _add(self, start, *names: str) -> None:
        self.controls.update({name: make(name, self.service, start) for name in names})

    def _tab(self, name: str, start) -> gr.Tab:
        with gr.Tab(name.capitalize(), id=name) as tab:
            if name == "search":
                with gr.Row(elem_classes="tab-controls"):
                    self._add(start, "weight", "more", "less")
                    self.upload = gr.UploadButton(
                        "Search by picture",
                        file_types=["image"],
                        type="binary",
                        size="sm",
                        elem_id="upload",
                        scale=0,
                        min_width=120,
                    )
            elif REDRAW.get(name):
                with gr.Row(elem_classes="tab-controls"):
                    self._add(start, *REDRAW[name])
            if name == "map":
                script = (HERE / "map.js").read_text()
                self.map = gr.HTML(MAP, apply_default_css=False, js_on_load=script, min_width=0)
            self.views[name] = gr.HTML(apply_default_css=False, js_on_load=(HERE / "page.js").read_text(), min_width=0)
        return tab

    # -- events --------------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """An input redraws the tab that is looked at; what the URL, a row or a card sets is set in the controls too."""
        inputs = [self.tab, *(self.controls[name] for name in CONTROLS)]
        everything = [self.tabs, *inputs, *self.views.values()]
        for name, control in self.controls.items():
            redraw = partial(self._redraw, OWNERS.get(name))
            if name in ("split", "a"):
                control.input(self._set(name), inputs, everything, **QUIET)
            elif name in ("more", "less"):
                gr.on([control.submit, control.blur], redraw, inputs, [*self.views.values()], **QUIET)
            elif name not in HIDDEN:
                control.input(redraw, inputs, [*self.views.values()], **QUIET)
        for name, place in self.places.items():
            place.select(self._open(name), inputs, [self.tab, *self.views.values()], **QUIET)
            self.views[name].click(self._touch, inputs, everything, **QUIET)
        self.map.click(self._touch, inputs, everything, **QUIET)
        self.upload.upload(self._upload, [self.upload, *inputs], everything, **QUIET)
        self.blocks.load(self._visit, None, everything, **QUIET)

    def _redraw(self, tab: str | None, *values) -> list:
        """The view of a tab; without one, of that which is looked at. A tab's own input redraws its tab: it may be
        used before the server has noted that the tab was opened."""
        said = _said(values)
        return [self._draw(name, said) if name == (tab or said["tab"]) else gr.skip() for name in TABS]

    def _open(self, tab: str) -> Callable:
        """Gradio also selects the tab that a page starts with, before the URL is read: that changes nothing."""

        def opened(now: str, *values) -> list:
            return [gr.skip()] * (len(TABS) + 1) if now == tab else [tab, *self._redraw(tab, tab, *values)]

        return opened

    def _set(self, name: str) -> Callable:
        """What another split or model makes meaningless goes back to its default."""
        forgotten = {"split": ("query", "slice"), "a": ("weight",)}[name]
        return lambda *values: self._show(_said(values) | dict.fromkeys(forgotten, ""))

    def _touch(self, event: gr.EventData, *values) -> list:
        """A row of queries opens its comparison; a product opens its details."""
        found, said = event._data if isinstance(event._data, dict) else {}, _said(values)
        if "query" in found:
            return self._show(said | {"tab": "compare", "query": str(found["query"])})
        if "ask" in found:
            return self._show(said | {"query": self.service.label(found["ask"])})
        return self._show(said | {name: str(found[name]) for name in HIDDEN if name in found})

    def _upload(self, data, *values) -> list:
        said = _said(values)
        try:
            return self._show(said | {"image": self.service.encoders.keep(data)})
        except UserError as error:
            return self._show(said, draw.message(error))

    def _visit(self, request: gr.Request) -> list:
        return self._show(dict(request.query_params))

    def _show(self, said: dict, problem: str = "") -> list:
        """The tabs, every control and the view for what was said; what is wrong with it, above the default view."""
        try:
            state = self.service.state(said)
        except UserError as error:
            state, problem = self.service.state(), draw.message(error)
        values = {name: getattr(state, name) for name in ("tab", *CONTROLS)}
        shown = [problem + self._draw(name, values) if name == state.tab else gr.skip() for name in TABS]
        controls = [update(name, self.service, state) for name in CONTROLS]
        return [gr.Tabs(selected=state.tab), state.tab, *controls, *shown]

    def _draw(self, tab: str, said: dict) -> str:
        try:
            return TABS[tab].draw(self.service, self.service.state(said | {"tab": tab}))
        except UserError as error:
            return draw.message(error)


def _said(values: tuple) -> dict[str, Any]:
    return dict(zip(("tab", *CONTROLS), values, strict=True))


def _header(service: Service) -> str:
    bundle = service.bundle
    size = (
        f"{len(bundle.items):,} products, {bundle.queries['query_id'].nunique():,} queries, {len(bundle.models)} models"
    )
    return (
        f'<div id="head"><h1>{TITLE}</h1><p>What does training on ranking scores change? '
        f"<span>{draw.safe(bundle.manifest['world'])}: {size}</span></p></div>"
    )
