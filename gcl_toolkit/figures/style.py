"""Colours, symbols and the plain look that every figure shares."""

from __future__ import annotations

import plotly.graph_objects as go

ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
"""Okabe & Ito's colours, without black and yellow, which vanish on a dark and a light page."""
GREY, GRID = "#808080", "rgba(128,128,128,.25)"

STYLES = {
    "random": (GREY, "x-thin-open", "dot"),
    "bm25": (GREY, "square-open", "dash"),
    "oracle": (GREY, "line-ns-open", "solid"),
    "clip": (ORANGE, "circle", "solid"),
    "clip-masked": (ORANGE, "circle-open", "dash"),
    "clip-top": (ORANGE, "triangle-up", "dot"),
    "binary-matrix": (SKY, "square", "solid"),
    "masked-matrix": (SKY, "bowtie", "dash"),
    "top-matrix": (SKY, "triangle-down", "dot"),
    "gcl-linear": (PURPLE, "diamond", "solid"),
    "gcl-reciprocal": (PURPLE, "diamond-open", "dash"),
    "gcl-matrix": (VERMILION, "star", "solid"),
    "gcl-soft": (VERMILION, "star-open", "dash"),
    "siglip": (GREEN, "hexagon", "solid"),
    "bixse": (GREEN, "hexagon-open", "dash"),
    "rankclip": (BLUE, "pentagon", "solid"),
    "kl": (BLUE, "pentagon-open", "dash"),
    "cosent": (BLUE, "triangle-left", "dot"),
}
"""Method -> colour, symbol, dash."""
OTHER = (GREEN, "cross", "dashdot")

MARKS = ((ORANGE, "circle"), (BLUE, "diamond"), (GREEN, "square"), (VERMILION, "triangle-up"), (PURPLE, "star"))
"""Colour and symbol of the first, second, ... thing in a figure whose things have no style of their own."""


def plain(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        template="none",
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": GREY, "size": 13, "family": "system-ui, sans-serif"},
        margin={"l": 8, "r": 8, "t": 28, "b": 8},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "itemwidth": 30},
        hoverlabel={"bgcolor": "#333", "font_color": "#fff", "bordercolor": GREY},
        barmode="overlay",
    )
    figure.update_annotations(font_size=14)
    axis = {"automargin": True, "gridcolor": GRID, "linecolor": GRID, "zeroline": False, "title_standoff": 8}
    axis["minorloglabels"] = "complete"  # .5 between .1 and 1, not 5
    figure.update_xaxes(**axis)
    return figure.update_yaxes(**axis)
