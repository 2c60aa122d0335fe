"""The page's inputs: how each is created, and its value and choices for a state."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import gradio as gr

from gcl_toolkit.app.service import Service
from gcl_toolkit.app.state import COLOURS, LOOKS, ORDERS, PANELS, TABS, State
from gcl_toolkit.data.weighting import WEIGHTINGS

HIDDEN = ("image", "item", "lasso")
"""Set by clicks, not by inputs."""
CONTROLS = tuple(field.name for field in fields(State) if field.name != "tab")


def owner(name: str) -> str | None:
    """The tab that an input belongs to; None for those above all tabs."""
    return next((tab for tab, about in TABS.items() if name in about.inputs), None)


def make(name: str, service: Service, state: State) -> gr.components.Component:
    kind, fixed = _KINDS[name]
    return kind(**fixed, **_now(name, service, state))


def update(name: str, service: Service, state: State) -> Any:
    return getattr(state, name) if name in HIDDEN else _KINDS[name][0](**_now(name, service, state))


def _now(name: str, service: Service, state: State) -> dict[str, Any]:
    """What depends on the state: the value and the choices."""
    now: dict[str, Any] = {"value": getattr(state, name)}
    if name == "weight":
        blend = service.blend(state.a)
        now["label"] = f"Weight of {blend[0]} (the remainder goes to {blend[1]})" if blend else "Weight"
        now["visible"] = bool(blend)
    elif name in _CHOICES:
        now["choices"] = _CHOICES[name](service, state)
    return now


_CHOICES = {
    "query": lambda service, state: service.choices(state.split),
    "a": lambda service, state: list(service.bundle.models),
    "b": lambda service, state: list(service.bundle.models),
    "split": lambda service, state: service.bundle.splits,
    "look": lambda service, state: [(label, look) for look, label in LOOKS.items()],
    "metric": lambda service, state: [str(metric) for metric in service.bundle.metrics],
    "order": lambda service, state: [(label, order) for order, label in ORDERS.items()],
    "division": lambda service, state: service.divisions,
    "slice": lambda service, state: service.slices(state.split),
    "panels": lambda service, state: [(label, panels) for panels, label in PANELS.items()],
    "colour": lambda service, state: list(COLOURS),
    "weighting": lambda service, state: list(WEIGHTINGS),
}


def _dropdown(label: str, **more: Any) -> tuple[type, dict]:
    return gr.Dropdown, {"label": label, "min_width": 140, **more}


def _slider(elem_id: str, label: str, low: float, high: float, step: float) -> tuple[type, dict]:
    return gr.Slider, {
        "elem_id": elem_id,
        "label": label,
        "minimum": low,
        "maximum": high,
        "step": step,
        "min_width": 200,
    }


_KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "query": _dropdown(
        "Query: choose one or type any text", allow_custom_value=True, elem_id="query", scale=3, min_width=280
    ),
    "a": _dropdown("Model A", elem_id="model-a", min_width=130),
    "b": _dropdown("Model B", elem_id="model-b", min_width=130),
    "split": _dropdown("Split", elem_id="split", min_width=130),
    "weight": (
        gr.Slider,
        {"minimum": 0, "maximum": 1, "step": 0.01, "elem_id": "weight", "min_width": 220, "scale": 2},
    ),
    "more": (gr.Textbox, {"label": "More of", "placeholder": "striped, red:0.8", "elem_id": "more", "min_width": 130}),
    "less": (gr.Textbox, {"label": "Less of", "placeholder": "vintage", "elem_id": "less", "min_width": 130}),
    "look": (gr.Radio, {"label": "View", "show_label": False, "elem_id": "look", "min_width": 200}),
    "metric": _dropdown("Metric"),
    "order": (gr.Radio, {"label": "Order by A’s", "elem_id": "order", "min_width": 330, "scale": 3}),
    "division": _dropdown("Division"),
    "slice": _dropdown("Slice", elem_id="slice"),
    "panels": (gr.Radio, {"label": "Maps", "elem_id": "panels", "min_width": 150}),
    "colour": _dropdown("Colour by", elem_id="colour"),
    "weighting": _dropdown("Score → weight", elem_id="weighting"),
    "temperature": _slider("temperature", "Temperature τ", 0.005, 0.5, 0.005),
    "score": _slider("score", "Score of the first pair", 1, 100, 1),
}
