"""Figures for the notebooks."""

import base64
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from gcl_toolkit.views.figures.style import BLUE, GREY, MARKS, VERMILION, add, plain, whiskers

Points = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Name of a series -> (x numbers, y numbers)."""


def angles(panels: Mapping[str, pd.DataFrame]) -> go.Figure:
    """How far products are from their query, by position; a panel per way of training, a line per query.
    panels: title -> table with query, position, degrees."""
    figure = make_subplots(1, len(panels), subplot_titles=list(panels), shared_yaxes=True, horizontal_spacing=0.05)
    for column, table in enumerate(panels.values(), 1):
        for (query, products), look in zip(table.groupby("query"), cycle(MARKS), strict=False):
            shown = products["position"], products["degrees"], look, "lines+markers"
            add(figure, f"query {query}", *shown, cell=(1, column))
    return plain(figure, 400, "position").update_yaxes(title="degrees from the query", col=1)


def strips(values: Mapping[str, Sequence[float]], title: str) -> go.Figure:
    """A mark per run, a row per way of training; the vertical tick is their mean. values: name -> a number per run."""
    figure = go.Figure()
    tick = {"size": 34, "marker": {"line": {"color": GREY, "width": 3}}}
    for row, ((name, numbers), look) in enumerate(zip(values.items(), cycle(MARKS), strict=False)):
        spread = 0.5 * (np.arange(len(numbers)) * 0.618 % 1 - 0.5)  # so that equal numbers don't hide each other
        add(figure, name, numbers, row + spread, look, size=8, marker={"opacity": 0.75})
        add(figure, "mean", [float(np.mean(numbers))], [row], (GREY, "line-ns", "solid"), **tick)
    rows = len(values)
    figure.update_yaxes(tickvals=list(range(rows)), ticktext=list(values), range=[rows - 0.5, -0.5], showgrid=False)
    return plain(figure, 110 + 65 * rows, title).update_layout(showlegend=False)


def matrices(panels: Mapping[str, np.ndarray], rows: str, columns: str) -> go.Figure:
    """Matrices with their numbers, above 0 vermilion, below 0 blue, on one colour scale. panels: title -> matrix."""
    figure = make_subplots(1, len(panels), subplot_titles=list(panels), horizontal_spacing=0.06)
    limit = max(float(np.abs(matrix).max()) for matrix in panels.values())
    for column, matrix in enumerate(panels.values(), 1):
        figure.add_heatmap(
            z=np.asarray(matrix).tolist(),
            texttemplate="%{text}",
            colorscale=[[0, BLUE], [0.5, "#eee"], [1, VERMILION]],
            zmin=-limit,
            zmax=limit,
            showscale=False,
            xgap=2,
            ygap=2,
            row=1,
            col=column,
        )
        figure.update_xaxes(showgrid=False, tickvals=list(range(matrix.shape[1])), row=1, col=column)
    figure.update_yaxes(autorange="reversed", showgrid=False, tickvals=list(range(len(next(iter(panels.values()))))))
    figure.update_yaxes(title=rows, row=1, col=1)
    plain(figure, 300, columns)
    for trace in figure.data:
        trace.text = [[f"{cell:+.3f}" if abs(cell) >= 5e-4 else "0" for cell in row] for row in trace.z]
    return figure


def agreement(groups: Points, x: str, y: str) -> go.Figure:
    """Points at two numbers each; on the line they are equal."""
    ends = [float(end(np.concatenate([np.concatenate(pair) for pair in groups.values()]))) for end in (np.min, np.max)]
    figure = go.Figure()
    add(figure, "equal", ends, ends, (GREY, "circle", "dash"), "lines", width=1)
    for (name, (across, up)), look in zip(groups.items(), cycle(MARKS), strict=False):
        add(figure, name, across, up, look, size=11)
    return plain(figure, 400, x, y)


def weight_curves(weights: pd.DataFrame, temperature: float) -> go.Figure:
    """Left, weight by position; right, the cosine gap to position 1 that it asks for: temperature * log(w1 / w).
    weights: one row per position, one column per function, > 0."""
    figure = make_subplots(1, 2, subplot_titles=("weight", "gap to position 1"), horizontal_spacing=0.1)
    gaps = temperature * np.log(weights.iloc[0] / weights)
    for row, name in enumerate(weights):
        colour, symbol, _ = MARKS[row % len(MARKS)]
        look = (colour, symbol, "solid") if row < len(MARKS) else (colour, f"{symbol}-open", "dash")
        for column, table in enumerate((weights, gaps), 1):
            add(figure, name, table.index, table[name], look, "lines+markers", cell=(1, column))
    figure.update_yaxes(type="log", tickvals=[1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01], row=1, col=1)
    return plain(figure, 440, "position")


def coverage(intervals: Sequence[Sequence[float]], truth: float, title: str) -> go.Figure:
    """An interval per repetition of the same measurement; those that miss the truth have another colour and symbol.
    intervals: (mean, low, high) each."""
    figure = go.Figure()
    for name, look, hits in (("contains the truth", MARKS[1], True), ("misses it", MARKS[3], False)):
        rows = [row for row, (_, low, high) in enumerate(intervals) if (low <= truth <= high) == hits]
        mean, low, high = np.array([intervals[row] for row in rows], float).reshape(-1, 3).T
        add(figure, name, rows, mean, look, size=8, error_y=whiskers(mean, low, high))
    figure.add_hline(truth, line={"color": GREY, "width": 1.5, "dash": "dash"})
    figure.update_xaxes(showgrid=False)
    return plain(figure, 360, "repetition", title)


def lines(series: Points, x: str, y: str) -> go.Figure:
    """A line with marks for each series."""
    figure = go.Figure()
    for (name, (across, up)), look in zip(series.items(), cycle(MARKS), strict=False):
        add(figure, name, across, up, look, "lines+markers")
    return plain(figure, 380, x, y)


def clouds(panels: Mapping[str, tuple[np.ndarray, Sequence[int]]], names: Sequence[str] = ()) -> go.Figure:
    """Points on planes, a panel each: (N x 2, N labels). Labels 0, 1, ... have colour and symbol, -1 is a small grey
    dot; names: what the labels mean."""
    figure = make_subplots(1, len(panels), subplot_titles=list(panels), horizontal_spacing=0.04)
    for column, (points_Nx2, labels) in enumerate(panels.values(), 1):
        labels_N = np.asarray(labels)
        for label in np.unique(labels_N):
            look = MARKS[label] if label >= 0 else (GREY, "circle", "solid")
            name = names[label] if 0 <= label < len(names) else "others" if label < 0 else f"cluster {label + 1}"
            x_M, y_M = np.round(np.asarray(points_Nx2)[labels_N == label].T, 3).tolist()
            size, opacity = 7 if label >= 0 else 3, {"opacity": 0.8}
            add(figure, name, x_M, y_M, look, size=size, marker=opacity, cell=(1, column))
    figure.update_xaxes(showticklabels=False, showgrid=False)
    figure.update_yaxes(showticklabels=False, showgrid=False)
    return plain(figure, 400)


def pictures(rows: Mapping[str, Sequence[tuple[bytes, str]]]) -> go.Figure:
    """Rows of pictures (PNG bytes) with a caption under each; the row's name above it."""
    figure = go.Figure()
    for down, (name, row) in enumerate(rows.items()):
        figure.add_annotation(x=0, y=-down + 0.02, text=name, showarrow=False, xanchor="left", yanchor="bottom")
        for across, (png, caption) in enumerate(row):
            source = "data:image/png;base64," + base64.b64encode(png).decode()
            middle = {"x": across + 0.46, "xanchor": "center"}
            size = {"sizex": 0.92, "sizey": 0.66, "xref": "x", "yref": "y"}
            figure.add_layout_image(source=source, y=-down, **middle, **size)
            figure.add_annotation(
                text=caption, showarrow=False, font={"color": GREY}, y=-down - 0.66, yanchor="top", **middle
            )
    figure.update_xaxes(visible=False, range=[0, max(map(len, rows.values()))])
    figure.update_yaxes(visible=False, range=[-len(rows) + 0.02, 0.26])
    return plain(figure, 40 + 190 * len(rows))
