"""The page: controls, tabs, and which input redraws which view. All answers and checks are `service.py`'s."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from app.torch_free import leave_torch_out

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
leave_torch_out()

import gradio as gr  # noqa: E402

from app import draw  # noqa: E402
from app.service import Service  # noqa: E402
from app.state import ORDERS  # noqa: E402
from app.tabs import about, compare, queries, search  # noqa: E402
from gcl_toolkit.bundle import read_bundle  # noqa: E402
from gcl_toolkit.errors import UserError  # noqa: E402

HERE = Path(__file__).parent
CONTROLS = ("split", "query", "a", "b", "weight", "metric", "order", "division")
TABS = {"search": search, "compare": compare, "queries": queries, "about": about}
REDRAWS = {
    "query": ("search", "compare"),
    "b": ("compare", "queries"),
    "weight": ("search",),
    "metric": ("queries",),
    "order": ("queries",),
    "division": ("queries",),
}
"""Control -> the views that it changes. All change with the split and with model A."""
TITLE = "GCL Toolkit"


def build(service: Service) -> gr.Blocks:
    """The page for one bundle."""
    start = service.state()
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        gr.HTML(_header(service), js_on_load=None, apply_default_css=False)
        controls: dict[str, gr.components.Component] = {}
        with gr.Row(elem_id="controls"):
            controls["query"] = gr.Dropdown(
                service.choices(start.split), value=start.query, label="Query: choose one, or type any text",
                allow_custom_value=True, elem_id="query", scale=3, min_width=280,
            )  # fmt: skip
            models = list(service.bundle.models)
            controls["a"] = gr.Dropdown(models, value=start.a, label="Model A", elem_id="model-a", min_width=130)
            controls["b"] = gr.Dropdown(models, value=start.b, label="Model B", elem_id="model-b", min_width=130)
            controls["split"] = gr.Dropdown(service.bundle.splits, value=start.split, label="Split", min_width=130)
        views = {}
        with gr.Tabs(selected=start.tab, elem_id="tabs") as tabs:
            with gr.Tab("Search", id="search"):
                controls["weight"] = gr.Slider(**_slider(service, start.a), step=0.01, elem_id="weight")
                views["search"] = _view()
            with gr.Tab("Compare", id="compare"):
                views["compare"] = _view()
            with gr.Tab("Queries", id="queries"):
                with gr.Row(elem_id="table-controls"):
                    metrics = [str(metric) for metric in service.bundle.metrics]
                    controls["metric"] = gr.Dropdown(metrics, value=start.metric, label="Metric", min_width=110)
                    orders = [(said, order) for order, said in ORDERS.items()]
                    controls["order"] = gr.Dropdown(orders, value=start.order, label="Order by A’s", min_width=110)
                    controls["division"] = gr.Dropdown(
                        service.divisions, value=start.division, label="Division", min_width=110
                    )
                views["queries"] = _view()
            with gr.Tab("About", id="about"):
                views["about"] = _view()
        _connect(service, page, tabs, controls, views)
    return page


def _connect(service: Service, page: gr.Blocks, tabs: gr.Tabs, controls: dict, views: dict) -> None:
    """Every input redraws the views that it changes; what was set by the URL or by a row is set in the controls too."""
    inputs = [controls[name] for name in CONTROLS]
    quiet: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"}

    def said(values: tuple) -> dict:
        return dict(zip(CONTROLS, values, strict=True))

    def drawn(said: dict, names: Iterable[str] = TABS) -> list[str]:
        return [_draw(service, name, said) for name in names]

    def redraws(control: str, names: Sequence[str]) -> None:
        outputs = [views[name] for name in names]
        controls[control].input(lambda *values: drawn(said(values), names), inputs, outputs, **quiet)

    for control, names in REDRAWS.items():
        redraws(control, names)

    def choose_split(*values):
        choices = service.choices(said(values)["split"])
        return [gr.Dropdown(choices, value=choices[0]), *drawn(said(values) | {"query": choices[0]})]

    def choose_model(*values):
        slider = _slider(service, said(values)["a"])
        return [gr.Slider(**slider), *drawn(said(values) | {"weight": slider["value"]})]

    def open_row(event: gr.EventData, *values):
        query = str(event.query)
        return [gr.Tabs(selected="compare"), query, *drawn(said(values) | {"query": query}, ("search", "compare"))]

    def open_url(request: gr.Request):
        try:
            state, problem = service.state(dict(request.query_params)), ""
        except UserError as error:
            state, problem = service.state(), draw.message(error)
        values = {name: getattr(state, name) for name in CONTROLS}
        shown = {name: problem + html for name, html in zip(TABS, drawn(values), strict=True)}
        values["query"] = gr.Dropdown(service.choices(state.split), value=state.query)
        values["weight"] = gr.Slider(**_slider(service, state.a) | {"value": state.weight})
        return [gr.Tabs(selected=state.tab), *values.values(), *shown.values()]

    everything = [views[name] for name in TABS]
    controls["split"].input(choose_split, inputs, [controls["query"], *everything], **quiet)
    controls["a"].input(choose_model, inputs, [controls["weight"], *everything], **quiet)
    opened = [tabs, controls["query"], views["search"], views["compare"]]
    views["queries"].click(open_row, inputs, opened, **quiet)
    page.load(open_url, None, [tabs, *inputs, *everything], **quiet)


def _view() -> gr.HTML:
    return gr.HTML(apply_default_css=False, js_on_load=(HERE / "page.js").read_text(), min_width=0)


def _draw(service: Service, tab: str, said: dict) -> str:
    try:
        return TABS[tab].draw(service, service.state(said | {"tab": tab}))
    except UserError as error:
        return draw.message(error)


def _slider(service: Service, model: str) -> dict:
    blend = service.blend(model)
    label = f"Weight of {blend[0]} (the rest is {blend[1]})" if blend else "Weight"
    return {"minimum": 0, "maximum": 1, "value": blend[2] if blend else 1, "label": label, "visible": bool(blend)}


def _header(service: Service) -> str:
    bundle = service.bundle
    queries_ = bundle.queries["query_id"].nunique()
    size = f"{len(bundle.items):,} products, {queries_:,} queries, {len(bundle.models)} models"
    return (
        f'<div id="head"><h1>{TITLE}</h1><p>What does training on ranking scores change? '
        f"<span>{draw.safe(bundle.manifest['world'])}: {size}</span></p></div>"
    )


def launch(service: Service, *, port: int | None = None, open_browser: bool = False, wait: bool = True) -> tuple:
    """Serve the page on 127.0.0.1 only; returns (server app, its URL, the page)."""
    page = build(service)
    fonts = [["system-ui", "sans-serif"], ["ui-monospace", "monospace"]]  # of this machine, none from elsewhere
    theme = gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=fonts[0], font_mono=fonts[1])
    app, url, _ = page.queue(default_concurrency_limit=8, max_size=64, api_open=False).launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        inbrowser=open_browser,
        quiet=True,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        prevent_thread_lock=True,
        footer_links=[],
        max_file_size="1mb",
        theme=theme,
        head=f"<style>{(HERE / 'style.css').read_text()}</style>",  # gradio's css comes after its tabs are measured
    )
    print(f"{TITLE}: {url} (stop with Ctrl-C)", flush=True)
    if wait:
        page.block_thread()
    return app, url, page


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m app.app", description="Look at a bundle in the browser.")
    parser.add_argument("bundle", type=Path, help="a folder made by `gcl bundle`")
    parser.add_argument("--port", type=int, default=None, help="the first free one from 7860 by default")
    parser.add_argument("--open", action="store_true", help="open the browser")
    said = parser.parse_args()
    try:
        service = Service(read_bundle(said.bundle))
    except UserError as error:
        sys.exit(f"gcl: {error}")
    launch(service, port=said.port, open_browser=said.open)


if __name__ == "__main__":
    main()
