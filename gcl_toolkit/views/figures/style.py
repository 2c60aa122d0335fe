"""Colours, symbols and the layout that all figures share."""

from collections.abc import Iterable
from html import escape
from itertools import product
from zlib import crc32

import numpy as np
import plotly.graph_objects as go

ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
"""Okabe & Ito's colours, without black and yellow, which are hard to see on a dark or a light page."""
GREY, GRID = "#808080", "rgba(128,128,128,.25)"
CLEAR = "rgba(0,0,0,0)"

HIGHLIGHTED = "graded"
"""The method with larger symbols and wider lines."""

STYLES = {
    "random": (GREY, "x-thin-open", "dot"),
    "bm25": (GREY, "square-open", "dash"),
    "oracle": (GREY, "line-ns-open", "solid"),
    "clip": (ORANGE, "circle", "solid"),
    "clip-masked": (ORANGE, "circle-open", "dash"),
    "clip-top": (ORANGE, "triangle-up", "dot"),
    "matrix-noscores": (SKY, "square", "solid"),
    "graded-noscores": (SKY, "bowtie", "dash"),
    "matrix-top": (SKY, "triangle-down", "dot"),
    "gcl-linear": (PURPLE, "diamond", "solid"),
    "gcl-reciprocal": (PURPLE, "diamond-open", "dash"),
    "graded": (VERMILION, "star", "solid"),
    "matrix": (VERMILION, "star-open", "dash"),
    "siglip": (GREEN, "hexagon", "solid"),
    "bixse": (GREEN, "hexagon-open", "dash"),
    "rankclip": (BLUE, "pentagon", "solid"),
    "kl": (BLUE, "pentagon-open", "dash"),
    "cosent": (BLUE, "triangle-left", "dot"),
}
"""Method -> colour, symbol, dash."""

_SYMBOLS = (
    *("cross", "x", "hexagram", "hourglass", "star-square"),
    *("octagon", "diamond-tall", "star-diamond", "diamond-wide", "triangle-right"),
)
_LOOKS = product(("dashdot", "longdash"), (GREEN, PURPLE, SKY, VERMILION, BLUE))
_SPARE = [(colour, symbol, dash) for symbol, (dash, colour) in zip(_SYMBOLS, _LOOKS, strict=True)]
_SPARE += [(colour, f"{symbol}-open", "longdashdot") for colour, symbol, _ in _SPARE]
"""Styles for names that `STYLES` doesn't have; their symbols and dashes differ from all of those."""

MARKS = (
    (ORANGE, "circle", "solid"),
    (BLUE, "diamond", "dash"),
    (GREEN, "square", "dot"),
    (VERMILION, "triangle-up", "dashdot"),
    (PURPLE, "star", "longdash"),
)
"""Colour, symbol and dash of the first, second, ... series of a figure that doesn't compare methods."""


def styles(names: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Name -> colour, symbol, dash, all different, for the names of one figure.

    A name that `STYLES` doesn't have, such as a method registered elsewhere, gets the spare style that its hash points
    to, or the next free one; there are 20 of them.
    """
    names = sorted(names)
    chosen = {name: STYLES[name] for name in names if name in STYLES}
    for name in names:
        start = crc32(name.encode()) % len(_SPARE)
        spare = _SPARE[start:] + _SPARE[:start]
        chosen.setdefault(name, next((style for style in spare if style not in chosen.values()), spare[0]))
    return chosen


def add(figure, name, x, y, look, mode="markers", *, size=9, width=2.0, cell=None, **more) -> None:
    """Add a series. look: colour, symbol, dash; cell: row and column of its plot, the first of which has the legend."""
    colour, symbol, dash = look
    if cell:
        more |= {"row": cell[0], "col": cell[1], "legendgroup": name, "showlegend": cell == (1, 1)}
    marker = {"color": colour, "symbol": symbol, "size": size} | more.pop("marker", {})
    line = {"color": colour, "dash": dash, "width": width}
    figure.add_scatter(x=list(x), y=list(y), name=name, mode=mode, marker=marker, line=line, **more)


def whiskers(mean, low, high) -> dict:
    """Error bars from `low` to `high`."""
    mean, low, high = (np.asarray(values, float) for values in (mean, low, high))
    sides = {"array": np.nan_to_num(high - mean).tolist(), "arrayminus": np.nan_to_num(mean - low).tolist()}
    return {**sides, "thickness": 1.5, "width": 0}


def plain(figure: go.Figure, height: int, x: str | None = None, y: str | None = None) -> go.Figure:
    """The figure with the shared layout, its texts escaped. x, y: titles of all its axes."""
    figure.update_layout(
        template="none",
        height=height,
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        font={"color": GREY, "size": 13, "family": "system-ui, sans-serif"},
        margin={"l": 8, "r": 8, "t": 28, "b": 8},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "itemwidth": 30},
        hoverlabel={"bgcolor": "#333", "font_color": "#fff", "bordercolor": GREY},
        barmode="overlay",
    )
    figure.update_annotations(font_size=14)
    axis = {"automargin": True, "gridcolor": GRID, "linecolor": GRID, "zeroline": False, "title_standoff": 8}
    axis["minorloglabels"] = "complete"  # .5 between .1 and 1, not 5
    figure.update_xaxes(**axis | ({"title": x} if x else {}))
    figure.update_yaxes(**axis | ({"title": y} if y else {}))
    return _escaped(figure)


def _escaped(figure: go.Figure) -> go.Figure:
    """The figure with every text shown as it is: plotly takes <b>, <a href=...> and the like for markup."""
    axes = [*figure.select_xaxes(), *figure.select_yaxes()]
    for part in (*figure.data, *figure.layout.annotations, *(axis.title for axis in axes), *axes):
        for name in ("name", "text", "ticktext"):
            value = part[name] if name in part else None  # noqa: SIM401 - no dict
            if isinstance(value, str):
                part[name] = escape(value, quote=False)
            elif value is not None:
                part[name] = [escape(text, quote=False) for text in value]
    return figure
