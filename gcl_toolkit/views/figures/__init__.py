"""Tables -> plotly figures; the only package that imports plotly. Here those of studies; `lessons` has the notebooks'.

Colour shows the family of a method, symbol and dash the method itself, so that figures can be read without colour.
Backgrounds are transparent, text and grid grey, for light and dark pages.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs as plotly_js
from plotly.subplots import make_subplots

from gcl_toolkit.views.figures.lessons import (
    agreement,
    angles,
    clouds,
    coverage,
    lines,
    matrices,
    pictures,
    strips,
    weight_curves,
)
from gcl_toolkit.views.figures.style import BLUE, GREY, GRID, HIGHLIGHTED, ORANGE, STYLES, add, plain, styles, whiskers

__all__ = [
    "CONFIG", "STYLES", "TIE", "agreement", "angles", "clouds", "coverage", "curves", "differences", "lines",
    "matrices", "order_against_recall", "pictures", "plotly_js", "quality_against_latency", "reached", "scores",
    "strips", "styles", "weight_curves",
]  # fmt: skip

CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["sendDataToCloud", "sendChartToCloud", "select2d", "lasso2d", "autoScale2d"],
}
"""For plotly.js: no logo, and no button that sends a figure anywhere."""
TIE = 5e-4
"""Smaller differences are ties: they vanish in the three digits shown."""


def scores(
    intervals: Mapping[str, Mapping[str, Sequence[float]]], metric: str, names: Mapping[str, str] | None = None
) -> go.Figure:
    """A dot with its interval for each method in each split. intervals: method -> split -> (mean, low, high);
    names: split -> label."""
    splits = list(next(iter(intervals.values())))
    looks = styles(intervals)
    figure = go.Figure()
    for row, (method, cells) in enumerate(intervals.items()):
        mean, low, high = np.array([cells[split] for split in splits], float).T
        add(
            figure,
            method,
            mean,
            np.arange(len(splits)) + 0.8 * ((row + 0.5) / len(intervals) - 0.5),
            looks[method],
            size=11 if method == HIGHLIGHTED else 9,
            marker={"line": {"color": looks[method][0], "width": 2}},
            error_x=whiskers(mean, low, high),
            customdata=[f"{a:.3f} to {b:.3f}" for a, b in zip(low, high, strict=True)],
            hovertemplate="%{x:.3f} (%{customdata})",
        )
    for border in range(1, len(splits)):
        figure.add_hline(border - 0.5, line={"color": GRID, "width": 1})
    labels = [(names or {}).get(split, split) for split in splits]
    rows = {"tickvals": list(range(len(splits))), "ticktext": labels, "range": [len(splits) - 0.5, -0.5]}
    figure.update_yaxes(showgrid=False, **rows)
    figure.update_xaxes(rangemode="tozero")
    return plain(figure, 140 + 105 * len(splits), metric)


def order_against_recall(order: Mapping[str, Sequence[float]], recall: Mapping[str, Sequence[float]]) -> go.Figure:
    """A point for each method, up for the order of the known products (NDCG@10), right for finding them all (AP), with
    intervals. order, recall: method -> (mean, low, high)."""
    looks, figure = styles(order), go.Figure()
    for method, (mean, low, high) in order.items():
        found, found_low, found_high = recall[method]
        add(
            figure,
            method,
            [found],
            [mean],
            looks[method],
            size=14 if method == HIGHLIGHTED else 10,
            error_x=whiskers([found], [found_low], [found_high]),
            error_y=whiskers([mean], [low], [high]),
            hovertemplate="AP %{x:.3f}, NDCG@10 %{y:.3f}",
        )
    return plain(figure, 460, "AP (recall)", "NDCG@10 (order)")


def curves(steps: Mapping[str, pd.DataFrame], points: int = 60) -> go.Figure:
    """Loss and logit scale by step. steps: method -> table with step, loss, logit_scale, averaged to at most `points`
    points."""
    series = {}
    for method, table in steps.items():
        stretch = np.arange(len(table)) * min(points, len(table)) // len(table)
        means = table[["step", "loss", "logit_scale"]].groupby(stretch).mean()
        series[method] = [means[["step", name]] for name in ("loss", "logit_scale")]
    return plain(_by_step(("loss", "logit scale"), series, "lines"), 440)


def reached(steps: Mapping[str, pd.DataFrame], metric: str) -> go.Figure | None:
    """The metric by step, a plot for each split; None where no table has it. steps: method -> table with step and the
    columns "<metric> <split>" of `evaluate.MeasureDev`, NaN at the steps between."""
    splits = list(dict.fromkeys(name for table in steps.values() for name in table if name.startswith(f"{metric} ")))
    if not splits:
        return None
    titles = [split.removeprefix(f"{metric} ").replace("_", " ") for split in splits]
    series = {
        method: [table.reindex(columns=["step", split]).dropna() for split in splits] for method, table in steps.items()
    }
    rows = -(-len(splits) // 2)
    figure = _by_step(titles, series, "lines+markers", shared_yaxes="all", vertical_spacing=0.3 / rows)
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    return plain(figure, 80 + 250 * rows)


def _by_step(titles: Sequence[str], series: Mapping[str, Sequence[pd.DataFrame]], mode: str, **grid) -> go.Figure:
    """A plot for each title, two in a row. series: method -> for each plot a table of two columns, step and value."""
    rows = -(-len(titles) // 2)
    figure = make_subplots(rows, 2, subplot_titles=list(titles), horizontal_spacing=0.09, **grid)
    looks = styles(series)
    for method, tables in series.items():
        width = 3 if method == HIGHLIGHTED else 2
        for place, table in enumerate(tables):
            cell, hover = (place // 2 + 1, place % 2 + 1), "step %{x:.0f}: %{y:.3f}"
            x, y = (column.tolist() for _, column in table.items())
            add(figure, method, x, y, looks[method], mode, size=8, width=width, cell=cell, hovertemplate=hover)
    return figure.update_xaxes(title="step", row=rows)


def differences(values: Sequence[float], metric: str) -> go.Figure:
    """Histogram of the per-query differences of two methods: losses hatched, ties (to three digits) in their own bar,
    wins plain."""
    values_Q = np.where(np.abs(values) < TIE, 0.0, values)
    limit = max(0.1, np.ceil(10 * np.abs(values_Q).max(initial=0)) / 10)
    width = 0.02 if limit < 0.35 else 0.05
    edges = np.arange(round(limit / width) + 1) * width
    outwards = edges[:-1] + width  # next to the bar of the ties
    losses, wins = (np.histogram(sizes_Q, edges)[0] for sizes_Q in (-values_Q[values_Q < 0], values_Q[values_Q > 0]))
    figure = go.Figure()
    for name, places, counts, colour, shape in (
        ("loss", -outwards, losses, ORANGE, "/"),
        ("tie", np.zeros(1), np.array([(values_Q == 0).sum()]), GREY, "x"),
        ("win", outwards, wins, BLUE, ""),
    ):
        pattern = {"shape": shape, "size": 7, "fillmode": "overlay", "fgcolor": "#fff"}
        marker = {"color": colour, "pattern": pattern}
        figure.add_bar(x=places.tolist(), y=counts.tolist(), name=name, marker=marker)
    figure.update_traces(width=width * 0.94, hovertemplate="%{y} queries")
    ticks = np.linspace(-1, 1, 5) * limit
    figure.update_xaxes(
        range=[-limit - width, limit + width],
        tickvals=(ticks + np.sign(ticks) * width / 2).tolist(),
        ticktext=[f"{tick:+.2f}" if tick else "0" for tick in ticks],
    )
    most = max(max(bars.y) for bars in figure.data)
    figure.update_yaxes(dtick=1 if most < 6 else None)
    return plain(figure, 360, f"difference in {metric}", "queries")


def quality_against_latency(systems: Sequence, metric: str) -> go.Figure:
    """Quality over milliseconds per query, with intervals: each first stage alone (large) and re-ranked at growing
    depth; the dotted line is the oracle's ceiling at the same depths. systems: each a `stages.Measured`."""
    table = pd.DataFrame(systems)
    looks = styles(table["first"].unique())
    figure = go.Figure()
    for first, mine in table.groupby("first", sort=False):
        ceiling, drawn = (mine[(mine["second"] == "oracle") == is_ceiling] for is_ceiling in (True, False))
        reranked = drawn["second"] != ""
        colour, symbol, _ = looks[first]
        group = {"width": 1.5, "legendgroup": first}
        add(
            figure,
            f"{first}, ceiling",
            drawn[reranked]["p50_ms"],
            ceiling["mean"],
            (colour, symbol, "dot"),
            "lines",
            text=[f"oracle over the first {depth}" for depth in ceiling["depth"]],
            hovertemplate="%{text}: %{y:.3f}",
            **group,
        )
        add(
            figure,
            first,
            drawn["p50_ms"],
            drawn["mean"],
            (colour, symbol, "solid"),
            "lines+markers",
            size=np.where(reranked, 9, 16).tolist(),
            error_y=whiskers(drawn["mean"], drawn["low"], drawn["high"]),
            text=drawn["system"].tolist(),
            hovertemplate="%{text}: %{y:.3f} in %{x:.2f} ms",
            **group,
        )
    figure.update_xaxes(type="log")
    figure.update_yaxes(rangemode="tozero")
    return plain(figure, 480, "processor milliseconds per query (median, one thread)", metric)
