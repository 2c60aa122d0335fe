"""Tables -> plotly figures; the only door to plotly.

Colour says the group of a method, symbol and dash which one it is, so that figures read without colour too. Backgrounds
are transparent, text and grid grey: they stand on light and dark pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs as plotly_js
from plotly.subplots import make_subplots

__all__ = [
    "CONFIG",
    "agreement",
    "circle",
    "curves",
    "differences",
    "matrices",
    "plotly_js",
    "scores",
    "strips",
    "weight_curves",
]

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
    "top-matrix": (SKY, "triangle-down", "dot"),
    "gcl-linear": (PURPLE, "diamond", "solid"),
    "gcl-reciprocal": (PURPLE, "diamond-open", "dash"),
    "gcl-matrix": (VERMILION, "star", "solid"),
    "gcl-graded": (VERMILION, "star-open", "dash"),
    "siglip": (GREEN, "hexagon", "solid"),
    "bixse": (GREEN, "hexagon-open", "dash"),
    "rankclip": (BLUE, "pentagon", "solid"),
    "kl": (BLUE, "pentagon-open", "dash"),
    "cosent": (BLUE, "triangle-left", "dot"),
}
"""Method -> colour, symbol, dash."""
_OTHER = (GREEN, "cross", "dashdot")

CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["sendDataToCloud", "sendChartToCloud", "select2d", "lasso2d", "autoScale2d"],
}
"""For plotly.js: no logo, and no button that sends a figure anywhere."""


def scores(
    intervals: Mapping[str, Mapping[str, Sequence[float]]], metric: str, names: Mapping[str, str] | None = None
) -> go.Figure:
    """A dot with its interval for each method in each split. intervals: method -> split -> (mean, low, high);
    names: how to call the splits."""
    splits = list(next(iter(intervals.values())))
    figure = go.Figure()
    for row, (method, cells) in enumerate(intervals.items()):
        colour, symbol, _ = STYLES.get(method, _OTHER)
        mean, low, high = np.array([cells[split] for split in splits], float).T
        figure.add_scatter(
            x=mean.tolist(),
            y=(np.arange(len(splits)) + 0.8 * ((row + 0.5) / len(intervals) - 0.5)).tolist(),
            error_x={
                "array": np.nan_to_num(high - mean).tolist(),
                "arrayminus": np.nan_to_num(mean - low).tolist(),
                "thickness": 1.5,
                "width": 0,
            },
            customdata=[f"{a:.3f} to {b:.3f}" for a, b in zip(low, high, strict=True)],
            hovertemplate="%{x:.3f} (%{customdata})",
            mode="markers",
            name=method,
            marker={
                "color": colour,
                "symbol": symbol,
                "size": 11 if method == "gcl-matrix" else 9,
                "line": {"color": colour, "width": 2},
            },
        )
    for border in range(1, len(splits)):
        figure.add_hline(border - 0.5, line={"color": GRID, "width": 1})
    names = names or {}
    figure.update_yaxes(
        tickvals=list(range(len(splits))),
        ticktext=[names.get(split, split) for split in splits],
        range=[len(splits) - 0.5, -0.5],
        showgrid=False,
    )
    figure.update_xaxes(title=metric, rangemode="tozero")
    return _plain(figure, 140 + 105 * len(splits))


def curves(steps: Mapping[str, pd.DataFrame], points: int = 60) -> go.Figure:
    """Loss and logit scale by step. steps: method -> table with step, loss, logit_scale; drawn as means of at most
    `points` stretches of steps."""
    figure = make_subplots(1, 2, subplot_titles=("loss", "logit scale"), horizontal_spacing=0.09)
    for method, table in steps.items():
        colour, _, dash = STYLES.get(method, _OTHER)
        stretch = np.arange(len(table)) * min(points, len(table)) // len(table)
        means = table[["step", "loss", "logit_scale"]].groupby(stretch).mean()
        for column, name in enumerate(("loss", "logit_scale"), 1):
            figure.add_scatter(
                x=means["step"].tolist(),
                y=means[name].tolist(),
                hovertemplate="step %{x:.0f}: %{y:.3f}",
                mode="lines",
                name=method,
                legendgroup=method,
                showlegend=column == 1,
                line={"color": colour, "dash": dash, "width": 3 if method == "gcl-matrix" else 2},
                row=1,
                col=column,
            )
    figure.update_xaxes(title="step")
    return _plain(figure, 440)


def differences(values: Sequence[float], metric: str) -> go.Figure:
    """How the per-query differences of two methods spread: losses hatched, ties in their own bar, wins plain."""
    values_Q = np.asarray(values, float)
    limit = max(0.1, np.ceil(10 * np.abs(values_Q).max(initial=0)) / 10)
    width = 0.02 if limit < 0.35 else 0.05
    edges = np.arange(round(limit / width) + 1) * width
    figure = go.Figure()
    for name, sizes_Q, sign, colour, pattern in (
        ("loss", -values_Q[values_Q < 0], -1, ORANGE, "/"),
        ("tie", np.zeros(0), 0, GREY, "x"),
        ("win", values_Q[values_Q > 0], 1, BLUE, ""),
    ):
        places, counts = sign * (edges[:-1] + width), np.histogram(sizes_Q, edges)[0]  # beside the bar of the ties
        if name == "tie":
            places, counts = np.zeros(1), np.array([(values_Q == 0).sum()])
        figure.add_bar(x=places.tolist(), y=counts.tolist(), name=name, marker=_bar(colour, pattern))
    figure.update_traces(width=width * 0.94, hovertemplate="%{y} queries")
    ticks = np.linspace(-1, 1, 5) * limit
    figure.update_xaxes(
        title=f"difference in {metric}",
        range=[-limit - width, limit + width],
        tickvals=(ticks + np.sign(ticks) * width / 2).tolist(),
        ticktext=[f"{tick:+.2f}" if tick else "0" for tick in ticks],
    )
    figure.update_yaxes(title="queries")
    return _plain(figure, 360)


def _bar(colour: str, pattern: str) -> dict:
    return {"color": colour, "pattern": {"shape": pattern, "size": 7, "fillmode": "overlay", "fgcolor": "#fff"}}


def _plain(figure: go.Figure, height: int) -> go.Figure:
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
    figure.update_xaxes(**axis)
    return figure.update_yaxes(**axis)


# -- for the notebooks -------------------------------------------------------------------------------------------------

MARKS = ((ORANGE, "circle"), (BLUE, "diamond"), (GREEN, "square"), (VERMILION, "triangle-up"), (PURPLE, "star"))
"""Colour and symbol of the first, second, ... thing in a figure whose things have no style of their own."""


def circle(panels: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Points on a circle, a panel a way of training: the angle is learnt, the ring is the position; a line a query.
    panels: title -> table with query, position, angle, query_angle (radians)."""
    titles = list(panels)
    figure = make_subplots(1, len(titles), specs=[[{"type": "polar"}] * len(titles)], subplot_titles=titles)
    for column, table in enumerate(panels.values(), 1):
        for query, products in table.groupby("query"):
            colour, symbol = MARKS[int(query) % len(MARKS)]
            rim = float(table["position"].max()) + 0.5
            line = {"mode": "lines", "line": {"color": colour, "width": 1.5}, "hoverinfo": "skip", "showlegend": False}
            direction = np.degrees(products["query_angle"].iloc[0])
            figure.add_scatterpolar(r=[0, rim], theta=[direction] * 2, **line, row=1, col=column)
            figure.add_scatterpolar(
                r=products["position"].tolist(),
                theta=np.degrees(products["angle"]).tolist(),
                mode="markers",
                name=f"query {query}",
                legendgroup=str(query),
                showlegend=column == 1,
                marker={"color": colour, "symbol": symbol, "size": 10},
                hovertemplate="position %{r}",
                row=1,
                col=column,
            )
    rings = {"gridcolor": GRID, "linecolor": GRID, "showticklabels": False, "ticks": ""}
    figure.update_polars(bgcolor="rgba(0,0,0,0)", radialaxis={**rings, "dtick": 1}, angularaxis=rings)
    return _plain(figure, 420).update_layout(margin={"t": 48, "b": 48})


def strips(values: Mapping[str, Sequence[float]], title: str) -> go.Figure:
    """A mark a run, a row a way of training; the vertical tick is their mean. values: name -> one number a run."""
    figure = go.Figure()
    for row, (name, numbers) in enumerate(values.items()):
        colour, symbol = MARKS[row % len(MARKS)]
        spread = 0.5 * (np.arange(len(numbers)) * 0.618 % 1 - 0.5)  # so that equal numbers don't hide each other
        marker = {"color": colour, "symbol": symbol, "size": 8, "opacity": 0.75}
        figure.add_scatter(x=list(numbers), y=(row + spread).tolist(), mode="markers", name=name, marker=marker)
        mean = {"symbol": "line-ns", "size": 34, "line": {"color": GREY, "width": 3}}
        figure.add_scatter(x=[float(np.mean(numbers))], y=[row], mode="markers", name="mean", marker=mean)
    rows = len(values)
    figure.update_yaxes(tickvals=list(range(rows)), ticktext=list(values), range=[rows - 0.5, -0.5], showgrid=False)
    figure.update_xaxes(title=title)
    return _plain(figure, 110 + 65 * rows).update_layout(showlegend=False)


def matrices(panels: Mapping[str, np.ndarray], rows: str, columns: str) -> go.Figure:
    """Matrices with their numbers, above 0 vermilion, below 0 blue, on one colour scale. panels: title -> matrix."""
    figure = make_subplots(1, len(panels), subplot_titles=list(panels), horizontal_spacing=0.06)
    limit = max(float(np.abs(matrix).max()) for matrix in panels.values())
    for column, matrix in enumerate(panels.values(), 1):
        figure.add_heatmap(
            z=np.asarray(matrix).tolist(),
            texttemplate="%{z:+.3f}",
            textfont={"color": "#fff"},
            colorscale=[[0, BLUE], [0.5, "#666"], [1, VERMILION]],
            zmin=-limit,
            zmax=limit,
            showscale=False,
            xgap=2,
            ygap=2,
            row=1,
            col=column,
        )
        figure.update_xaxes(title=columns, showgrid=False, tickvals=list(range(matrix.shape[1])), row=1, col=column)
    figure.update_yaxes(autorange="reversed", showgrid=False, tickvals=list(range(len(next(iter(panels.values()))))))
    figure.update_yaxes(title=rows, row=1, col=1)
    return _plain(figure, 300)


def agreement(groups: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str) -> go.Figure:
    """Two numbers for each thing; on the line they are equal. groups: name -> (x numbers, y numbers)."""
    ends = [float(end(np.concatenate([np.concatenate(pair) for pair in groups.values()]))) for end in (np.min, np.max)]
    figure = go.Figure()
    equal = {"mode": "lines", "line": {"color": GREY, "dash": "dash", "width": 1}}
    figure.add_scatter(x=ends, y=ends, name="equal", **equal)
    for (name, (across, up)), (colour, symbol) in zip(groups.items(), MARKS, strict=False):
        marker = {"color": colour, "symbol": symbol, "size": 11}
        figure.add_scatter(x=list(across), y=list(up), mode="markers", name=name, marker=marker)
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y)
    return _plain(figure, 400)


def weight_curves(weights: pd.DataFrame, temperature: float) -> go.Figure:
    """Left, weight by position; right, the cosine gap to position 1 that it asks for: temperature * log(w1 / w).
    weights: one row a position, one column a function, > 0."""
    figure = make_subplots(1, 2, subplot_titles=("weight", "cosine gap to position 1"), horizontal_spacing=0.1)
    gaps = temperature * np.log(weights.iloc[0] / weights)
    for row, name in enumerate(weights):
        (colour, symbol), dash = MARKS[row % len(MARKS)], ("solid", "dash")[row // len(MARKS)]
        symbol += "-open" if row >= len(MARKS) else ""
        for column, table in enumerate((weights, gaps), 1):
            figure.add_scatter(
                x=table.index.tolist(),
                y=table[name].tolist(),
                mode="lines+markers",
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                line={"color": colour, "dash": dash},
                marker={"symbol": symbol, "size": 9},
                row=1,
                col=column,
            )
    figure.update_xaxes(title="position")
    figure.update_yaxes(type="log", tickvals=[1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01], row=1, col=1)
    return _plain(figure, 440)


def quality_against_latency(systems: Sequence[Mapping], metric: str) -> go.Figure:
    """Each first stage alone (large) and re-ranked at growing depth (joined by a line), with its interval over the
    milliseconds of a query; the dotted line is the oracle's ceiling at the same depths. systems: rows of
    `stages.stages`."""
    figure = go.Figure()
    for first in dict.fromkeys(row["first"] for row in systems):
        colour, symbol, _ = STYLES.get(first, _OTHER)
        mine = [row for row in systems if row["first"] == first]
        alone, reranked, ceiling = (
            [row for row in mine if row["second"] == name] for name in ("", "re-ranker", "oracle")
        )
        milliseconds = [row["p50_ms"] for row in alone + reranked]
        figure.add_scatter(
            x=milliseconds[len(alone) :],
            y=[row["mean"] for row in ceiling],
            text=[f"oracle over the first {row['depth']}" for row in ceiling],
            hovertemplate="%{text}: %{y:.3f}",
            mode="lines",
            name=f"{first}, ceiling",
            line={"color": colour, "dash": "dot", "width": 1.5},
            legendgroup=first,
        )
        figure.add_scatter(
            x=milliseconds,
            y=[row["mean"] for row in alone + reranked],
            error_y={
                "array": [row["high"] - row["mean"] for row in alone + reranked],
                "arrayminus": [row["mean"] - row["low"] for row in alone + reranked],
                "thickness": 1.5,
                "width": 0,
            },
            text=[row["system"] for row in alone + reranked],
            hovertemplate="%{text}: %{y:.3f} in %{x:.2f} ms",
            mode="lines+markers",
            name=first,
            marker={"color": colour, "symbol": symbol, "size": [16] * len(alone) + [9] * len(reranked)},
            line={"color": colour, "width": 1.5},
            legendgroup=first,
        )
    figure.update_xaxes(title="processor milliseconds a query (median, one thread)", type="log")
    figure.update_yaxes(title=metric, rangemode="tozero")
    return _plain(figure, 480)
