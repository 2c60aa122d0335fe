"""One HTML file that needs nothing else, no host and no folder beside it: sections of tables, panes and figures.

Bodies, notes and cells are HTML; names, titles and table heads are text, escaped here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files

from gcl_toolkit import figures

POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The browser itself refuses whatever would leave the page."""


def page(title: str, under: str, sections: Iterable[str]) -> str:
    """The whole file; `under` stands below the title."""
    style, script = (files("gcl_toolkit.report").joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f'<meta http-equiv=Content-Security-Policy content="{POLICY}"><link rel=icon href="data:,">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main><header><h1>{escape(title)}</h1>"
        f"<p class=note>GCL Toolkit · {escape(under)}</p></header>{''.join(sections)}</main>"
        f"<script>{figures.plotly_js()}</script>"
        f"<script>const config = {json.dumps(figures.CONFIG)};\n{script}</script></body></html>"
    )


def section(name: str, heading: str, note: str, body: str) -> str:
    return f"<section id={name}><h2>{heading}</h2>{f'<p class=note>{note}</p>' if note else ''}{body}</section>"


def figure(drawn: figures.go.Figure) -> str:
    data = drawn.to_json().replace("<", "\\u003c")
    height = drawn.layout.height
    return f"<div class=figure style='height:{height}px'></div><script type='application/json'>{data}</script>"


def table(heads: Iterable[str], rows: Iterable[str]) -> str:
    """`rows` are <tr> elements."""
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in heads)
    return f"<div class=scroll tabindex=0><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</table></div>"


def group_row(text: str, columns: int) -> str:
    return f"<tr class=group><th colspan={columns} scope=rowgroup><span>{text}</span></th></tr>"


def panes(bodies: Mapping[str, str], chosen: str, label: str) -> str:
    """Bodies of which one is seen, with a button each; the buttons of all sections switch together."""
    buttons = "".join(
        f"<button type=button data-choice='{name}' aria-pressed={str(name == chosen).lower()}>{name}</button>"
        for name in bodies
    )
    shown = "".join(
        f"<div data-pane='{name}'{'' if name == chosen else ' hidden'}>{body}</div>" for name, body in bodies.items()
    )
    return f"<div class=tabs role=group aria-label={label}>{buttons}</div>{shown}"


def definitions(facts: Mapping[str, str]) -> str:
    """Name and HTML, a row each; empty ones are left out."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{html}</dd>" for name, html in facts.items() if html) + "</dl>"


# -- numbers and words -------------------------------------------------------------------------------------------------


def number(value: float, form: str) -> str:
    return f"{value:{form}}".replace("-", "\N{MINUS SIGN}")


def ends(interval: Sequence[float], form: str, unit: str = "") -> str:
    """Low to high; empty for a single query, which has no interval."""
    low, high = interval
    return "" if math.isnan(low) else f"{number(low, form)} to {number(high, form)}{unit}"


def count(things: int, name: str) -> str:
    return f"{things} {name}{'' if things == 1 else 's'}"


def value(seen: object) -> str:
    """A setting or fact as HTML."""
    if isinstance(seen, float):
        return f"{seen:.4g}"
    if isinstance(seen, list | tuple):
        return ", ".join(map(value, seen))
    if isinstance(seen, dict):
        parts = ((key, value(part), isinstance(part, dict | list)) for key, part in seen.items())
        return ", ".join(f"{escape(str(key))} {f'({part})' if nested else part}" for key, part, nested in parts)
    return escape(str(seen))


def pairs(facts: Mapping) -> str:
    return " · ".join(f"{escape(str(name))} <b>{value(fact)}</b>" for name, fact in facts.items())
