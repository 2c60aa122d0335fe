"""The page: controls, tabs, and which input redraws which view. `service.py` computes all answers and checks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import gradio as gr

from gcl_toolkit.app import draw
from gcl_toolkit.app.api import add_api
from gcl_toolkit.app.controls import CONTROLS, HIDDEN, make, owner, update
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import TABS
from gcl_toolkit.app.tabs.map import MAP
from gcl_toolkit.errors import UserError

HERE = Path(__file__).parent
TITLE = "GCL Toolkit"
QUIET: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"}


class Page:
    """The page for one bundle; `blocks` is the gradio page."""

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
                    self._add(start, *TABS[name].inputs)
                    self.upload = gr.UploadButton(
                        "Search by picture",
                        file_types=["image"],
                        type="binary",
                        size="sm",
                        elem_id="upload",
                        scale=0,
                        min_width=120,
                    )
            elif TABS[name].inputs:
                with gr.Row(elem_classes="tab-controls"):
                    self._add(start, *TABS[name].inputs)
            if name == "map":
                script = (HERE / "map.js").read_text()
                self.map = gr.HTML(MAP, apply_default_css=False, js_on_load=script, min_width=0)
            self.views[name] = gr.HTML(apply_default_css=False, js_on_load=(HERE / "page.js").read_text(), min_width=0)
        return tab

    # -- events --------------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """An input redraws the open tab; what the URL, a row or a card sets is also set in the controls."""
        inputs = [self.tab, *(self.controls[name] for name in CONTROLS)]
        everything = [self.tabs, *inputs, *self.views.values()]
        for name, control in self.controls.items():
            redraw = partial(self._redraw, owner(name))
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
        """The view of a tab, by default the open one. A tab's own input redraws its tab, since it may be used before
        the server has noted that the tab was opened."""
        options = _options(values)
        return [self._draw(name, options) if name == (tab or options["tab"]) else gr.skip() for name in TABS]

    def _open(self, tab: str) -> Callable:
        """Gradio also selects the initial tab before the URL is read; that changes nothing."""

        def opened(now: str, *values) -> list:
            return [gr.skip()] * (len(TABS) + 1) if now == tab else [tab, *self._redraw(tab, tab, *values)]

        return opened

    def _set(self, name: str) -> Callable:
        """Inputs that are invalid for another split or model return to their defaults."""
        reset = {"split": ("query", "slice"), "a": ("weight",)}[name]
        return lambda *values: self._show(_options(values) | dict.fromkeys(reset, ""))

    def _touch(self, event: gr.EventData, *values) -> list:
        """A row of queries opens its comparison; a product opens its details."""
        clicked, options = event._data if isinstance(event._data, dict) else {}, _options(values)
        if "query" in clicked:
            return self._show(options | {"tab": "compare", "query": str(clicked["query"])})
        if "ask" in clicked:
            return self._show(options | {"query": self.service.label(clicked["ask"])})
        return self._show(options | {name: str(clicked[name]) for name in HIDDEN if name in clicked})

    def _upload(self, data, *values) -> list:
        options = _options(values)
        try:
            return self._show(options | {"image": self.service.encoders.keep(data)})
        except UserError as error:
            return self._show(options, draw.message(error))

    def _visit(self, request: gr.Request) -> list:
        return self._show(dict(request.query_params))

    def _show(self, options: dict, problem: str = "") -> list:
        """The tabs, every control and the view for some options; an error is shown above the default view."""
        try:
            state = self.service.state(options)
        except UserError as error:
            state, problem = self.service.state(), draw.message(error)
        values = {name: getattr(state, name) for name in ("tab", *CONTROLS)}
        shown = [problem + self._draw(name, values) if name == state.tab else gr.skip() for name in TABS]
        controls = [update(name, self.service, state) for name in CONTROLS]
        return [gr.Tabs(selected=state.tab), state.tab, *controls, *shown]

    def _draw(self, tab: str, options: dict) -> str:
        try:
            module = import_module(TABS[tab].module or f"gcl_toolkit.app.tabs.{tab}")
            return module.draw(self.service, self.service.state(options | {"tab": tab}))
        except UserError as error:
            return draw.message(error)


def _options(values: tuple) -> dict[str, Any]:
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
