"""Tables -> plotly figures; the only door to plotly. Here those of studies; `lessons` has those of the notebooks.

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

from gcl_toolkit.figures.lessons import (
    agreement,
    circle,
    clouds,
    coverage,
    lines,
    matrices,
    pictures,
    strips,
    weight_curves,
)
from gcl_toolkit.figures.style import BLUE, GREY, GRID, MARKS, ORANGE, OTHER, STYLES, plain

__all__ = [
    "CONFIG",
    "STYLES",
    "TIE",
    "agreement",
    "circle",
    "clouds",
    "coverage",
    "curves",
    "differences",
    "lines",
    "matrices",
    "pictures",
    "plotly_js",
    "quality_against_latency",
    "reached",
    "scores",
    "strips",
    "weight_curves",
]

CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["sendDataToCloud", "sendChartToCloud", "select2d", "lasso2d", "autoScale2d"],
}
"""For plotly.js: no logo, and no button that sends a figure anywhere."""
TIE = 5e-4
"""Differences below it are none to the three digits that are shown."""


def scores(
    intervals: Mapping[str, Mapping[str, Sequence[float]]], metric: str, names: Mapping[str, str] | None = None
) -> go.Figure:
    """A dot with its interval for each method in each split. intervals: method -> split -> (mean, low, high);
    names: how to call the splits."""
    splits = list(next(iter(intervals.values())))
    figure = go.Figure()
    for row, (method, cells) in enumerate(intervals.items()):
        colour, symbol, *_ = STYLES.get(method, MARKS[row % len(MARKS)])
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
    return plain(figure, 140 + 105 * len(splits))


def curves(steps: Mapping[str, pd.DataFrame], points: int = 60) -> go.Figure:
    """Loss and logit scale by step. steps: method -> table with step, loss, logit_scale; drawn as means of at most
    `points` stretches of steps."""
    figure = make_subplots(1, 2, subplot_titles=("loss", "logit scale"), horizontal_spacing=0.09)
    for method, table in steps.items():
        colour, _, dash = STYLES.get(method, OTHER)
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
    return plain(figure, 440)


def reached(steps: Mapping[str, pd.DataFrame], metric: str) -> go.Figure | None:
    """A split's metric by step, a plot each; None where no table has it. steps: method -> table with step and the
    columns "<metric> <split>" that `evaluate.Watch` gives, NaN at the steps between."""
    splits = dict.fromkeys(name for table in steps.values() for name in table if name.startswith(f"{metric} "))
    if not splits:
        return None
    rows = -(-len(splits) // 2)
    titles = [split.removeprefix(f"{metric} ").replace("_", " ") for split in splits]
    gaps = {"horizontal_spacing": 0.09, "vertical_spacing": 0.3 / rows}
    figure = make_subplots(rows, 2, shared_yaxes="all", subplot_titles=titles, **gaps)
    for method, table in steps.items():
        colour, symbol, dash = STYLES.get(method, OTHER)
        for place, split in enumerate(splits):
            measured = table.reindex(columns=["step", split]).dropna()
            figure.add_scatter(
                x=measured["step"].tolist(),
                y=measured[split].tolist(),
                hovertemplate="step %{x:.0f}: %{y:.3f}",
                mode="lines+markers",
                name=method,
                legendgroup=method,
                showlegend=place == 0,
                marker={"symbol": symbol, "size": 8},
                line={"color": colour, "dash": dash, "width": 3 if method == "gcl-matrix" else 2},
                row=place // 2 + 1,
                col=place % 2 + 1,
            )
    figure.update_xaxes(rangemode="tozero")
    figure.update_xaxes(title="step", row=rows)
    figure.update_yaxes(rangemode="tozero")
    return plain(figure, 80 + 250 * rows)


def differences(values: Sequence[float], metric: str) -> go.Figure:
    """How the per-query differences of two methods spread: losses hatched, ties (to three digits) in their own bar,
    wins plain."""
    values_Q = np.where(np.abs(values) < TIE, 0.0, values)
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
    most = max(max(bars.y) for bars in figure.data)
    figure.update_yaxes(title="queries", dtick=1 if most < 6 else None)
    return plain(figure, 360)


def _bar(colour: str, pattern: str) -> dict:
    return {"color": colour, "pattern": {"shape": pattern, "size": 7, "fillmode": "overlay", "fgcolor": "#fff"}}


def quality_against_latency(systems: Sequence[Mapping], metric: str) -> go.Figure:
    """Each first stage alone (large) and re-ranked at growing depth (joined by a line), with its interval over the
    milliseconds of a query; the dotted line is the oracle's ceiling at the same depths. systems: rows of
    `stages.stages`."""
    figure = go.Figure()
    for first in dict.fromkeys(row["first"] for row in systems):
        colour, symbol, _ = STYLES.get(first, OTHER)
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
    return plain(figure, 480)
