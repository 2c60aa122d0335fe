"""Figures that the notebooks teach with."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from gcl_toolkit.figures.style import BLUE, GREY, GRID, MARKS, VERMILION, plain


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
    return plain(figure, 420).update_layout(margin={"t": 48, "b": 48})


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
    return plain(figure, 110 + 65 * rows).update_layout(showlegend=False)


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
    return plain(figure, 300)


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
    return plain(figure, 400)


def weight_curves(weights: pd.DataFrame, temperature: float) -> go.Figure:
    """Left, weight by position; right, the cosine gap to position 1 that it asks for: temperature * log(w1 / w).
    weights: one row a position, one column a function, > 0."""
    figure = make_subplots(1, 2, subplot_titles=("weight", "gap to position 1"), horizontal_spacing=0.1)
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
    return plain(figure, 440)


def coverage(intervals: Sequence[Sequence[float]], truth: float, title: str) -> go.Figure:
    """An interval a repetition of the same measurement, those that miss the truth in another colour and symbol.
    intervals: (mean, low, high) each."""
    figure = go.Figure()
    for name, (colour, symbol), hits in (("holds the truth", MARKS[1], True), ("misses it", MARKS[3], False)):
        rows = [row for row, (_, low, high) in enumerate(intervals) if (low <= truth <= high) == hits]
        mean, low, high = np.array([intervals[row] for row in rows], float).reshape(-1, 3).T
        bars = {"array": (high - mean).tolist(), "arrayminus": (mean - low).tolist(), "thickness": 1.5, "width": 0}
        marker = {"color": colour, "symbol": symbol, "size": 8}
        figure.add_scatter(x=rows, y=mean.tolist(), error_y=bars, mode="markers", name=name, marker=marker)
    figure.add_hline(truth, line={"color": GREY, "width": 1.5, "dash": "dash"})
    figure.update_xaxes(title="repetition", showgrid=False)
    figure.update_yaxes(title=title)
    return plain(figure, 360)


def lines(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str) -> go.Figure:
    """A line with marks for each thing. series: name -> (x numbers, y numbers)."""
    figure = go.Figure()
    dashes = ("solid", "dash", "dot", "dashdot", "longdash")
    for (name, (across, up)), (colour, symbol), dash in zip(series.items(), MARKS, dashes, strict=False):
        style = {"marker": {"color": colour, "symbol": symbol, "size": 9}, "line": {"color": colour, "dash": dash}}
        figure.add_scatter(x=list(across), y=list(up), mode="lines+markers", name=name, **style)
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y)
    return plain(figure, 380)


def clouds(panels: Mapping[str, tuple[np.ndarray, Sequence[int]]], names: Sequence[str] = ()) -> go.Figure:
    """Points on planes, a panel each: (N x 2, N labels). Labels 0, 1, ... have colour and symbol, -1 is a small grey
    dot; names: what the labels mean."""
    figure = make_subplots(1, len(panels), subplot_titles=list(panels), horizontal_spacing=0.04)
    for column, (points_Nx2, labels) in enumerate(panels.values(), 1):
        labels_N = np.asarray(labels)
        for label in np.unique(labels_N):
            colour, symbol = MARKS[label] if label >= 0 else (GREY, "circle")
            here_Mx2 = np.asarray(points_Nx2)[labels_N == label]
            figure.add_scatter(
                x=np.round(here_Mx2[:, 0], 3).tolist(),
                y=np.round(here_Mx2[:, 1], 3).tolist(),
                mode="markers",
                name=names[label] if 0 <= label < len(names) else "others" if label < 0 else f"cluster {label + 1}",
                legendgroup=str(label),
                showlegend=column == 1,
                marker={"color": colour, "symbol": symbol, "size": 7 if label >= 0 else 3, "opacity": 0.8},
                row=1,
                col=column,
            )
    figure.update_xaxes(showticklabels=False, showgrid=False)
    figure.update_yaxes(showticklabels=False, showgrid=False)
    return plain(figure, 400)


def pictures(rows: Mapping[str, Sequence[tuple[bytes, str]]]) -> go.Figure:
    """Rows of pictures (PNG bytes) with a caption under each; the row's name above it."""
    figure = go.Figure()
    widest = max(len(row) for row in rows.values())
    for down, (name, row) in enumerate(rows.items()):
        figure.add_annotation(x=0, y=-down + 0.02, text=name, showarrow=False, xanchor="left", yanchor="bottom")
        for across, (png, caption) in enumerate(row):
            source = "data:image/png;base64," + base64.b64encode(png).decode()
            middle = {"x": across + 0.46, "xanchor": "center"}
            size = {"sizex": 0.92, "sizey": 0.66, "xref": "x", "yref": "y"}
            figure.add_layout_image(source=source, y=-down, **middle, **size)
            below = {**middle, "y": -down - 0.66, "yanchor": "top"}
            figure.add_annotation(text=caption, showarrow=False, font={"color": GREY}, **below)
    figure.update_xaxes(visible=False, range=[0, widest])
    figure.update_yaxes(visible=False, range=[-len(rows) + 0.02, 0.26])
    return plain(figure, 40 + 190 * len(rows))
