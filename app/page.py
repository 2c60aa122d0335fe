"""The page: gradio's shell around one element, and what `page.js` fetches into it for a URL."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import gradio as gr

from gcl_toolkit.app import draw
from gcl_toolkit.app.api import add_api
from gcl_toolkit.app.controls import controls
from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import MAX_ALSO, TABS, State
from gcl_toolkit.errors import UserError

HERE = Path(__file__).parent
TITLE = "GCL Toolkit"
SCRIPTS = {path.name: path.read_bytes() for path in sorted(HERE.glob("*.js"))}
"""What the page may load; their names are not taken from requests."""
VERSION = hashlib.sha256(b"".join(SCRIPTS.values())).hexdigest()[:8]
START = f"""
const script = new URL("gcl/page.js?v={VERSION}", document.baseURI);
import(script).then((page) => page.default(element.querySelector("#gcl")));
"""
"""Gradio calls it once, with the component as `element`."""


def blocks(service: Service) -> gr.Blocks:
    """Gradio's page: the frame that page.js fills, and the named endpoints."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        gr.HTML(frame(service), js_on_load=START, apply_default_css=False)
        add_api(service)
    return page


def frame(service: Service) -> str:
    bundle = service.bundle
    size = f"{len(bundle.items):,} products, {bundle.queries['query_id'].nunique():,} queries, "
    about = f"{bundle.manifest['world']}: {size}{len(bundle.systems)} systems"
    return (
        f'<div id="gcl" class="gcl" data-version="{VERSION}">'
        f'<header id="head"><h1>{TITLE}</h1><p>{draw.safe(about)}</p></header>'
        '<nav id="tabs" aria-label="Views"></nav><form id="controls"></form>'
        '<p id="notice" class="message" role="alert" hidden></p><p id="status" class="unseen" role="status"></p>'
        '<section id="view"><p class="note">Loading …</p></section></div>'
    )


def content(service: Service, options: Mapping[str, str]) -> str:
    """What replaces the frame's parts for a URL's parameters: tabs, controls, and the view."""
    state, problems = read(service, options)
    messages = "".join(map(draw.message, problems))
    module = import_module(TABS[state.tab].module or f"gcl_toolkit.app.tabs.{state.tab}")
    try:
        view = module.draw(service, state)
    except UserError as error:
        view = draw.view(draw.message(error))
    title = f'<h2 class="unseen">{state.tab.capitalize()}</h2>'
    where = f'id="view" tabindex="-1" data-url="{draw.safe(state.url())}"'
    return f"{_tabs(service, state)}{controls(service, state)}<section {where}>{title}{messages}{view}</section>"


def read(service: Service, options: Mapping[str, str]) -> tuple[State, list[str]]:
    """The state of a URL's parameters, and what is wrong with them: a bad one returns to its default, alone."""
    names = [field.name for field in fields(State) if options.get(field.name) and field.name != "given"]
    good: dict[str, Any] = {name: options[name] for name in names}
    if not good and service.bundle.manifest["unlisted"] == "unjudged":  # rankings of files: all are to be compared
        others = [name for name in service.bundle.systems if name not in service.bundle.pair][:MAX_ALSO]
        good = {"also": ",".join(others)} if others else {}
    problems = []
    try:
        state = service.state(good)
    except UserError:
        good = {}
        for name in names:
            try:
                service.state(good | {name: options[name]})
            except UserError as error:
                problems.append(f"{name}: {error}")
            else:
                good[name] = options[name]
        state = service.state(good)
    return fitting(service, replace(state, given=tuple(good))), problems


def tabs(service: Service) -> list[str]:
    """The tabs that have something to show."""
    found = {"": True, "vectors": bool(service.searchable)}
    found["history"] = any(system.history is not None for system in service.bundle.systems.values())
    return [name for name, tab in TABS.items() if found[tab.needs]]


def fitting(service: Service, state: State) -> State:
    """Another tab instead of one that is not shown; systems with vectors where only they can be shown."""
    shown, able = tabs(service), service.searchable
    if state.tab not in shown:
        state = state.but(tab=shown[0])
    if TABS[state.tab].needs == "vectors":
        others = [name for name in able if name not in (state.a, state.b)] or able
        unfit = [side for side in ("a", "b") if getattr(state, side) not in able]
        state = state.but(**dict(zip(unfit, others * 2, strict=False)))
    return state


def _tabs(service: Service, state: State) -> str:
    links = "".join(
        f"<li>{draw.link(state, name.capitalize(), tab=name, id=f'tab-{name}', now=name == state.tab)}</li>"
        for name in tabs(service)
    )
    return f'<nav id="tabs" aria-label="Views"><ul>{links}</ul></nav>'
