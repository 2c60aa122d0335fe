"""Figures carry the numbers they were given, in ways that read without colour."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from gcl_toolkit.methods import METHODS
from gcl_toolkit.views import figures


def test_scores_shows_each_mean_between_its_ends():
    figure = figures.scores({"clip": {"a": (0.5, 0.4, 0.7), "b": (0.2, 0.1, 0.3)}}, "AP", {"a": "first"})
    (dots,) = figure.data
    assert dots.x == (0.5, 0.2)
    assert dots.error_x.array == pytest.approx((0.2, 0.1))
    assert dots.error_x.arrayminus == pytest.approx((0.1, 0.1))
    assert figure.layout.yaxis.ticktext == ("first", "b")


def test_methods_differ_by_symbol_and_those_of_one_colour_by_dash():
    assert set(figures.STYLES) == {"random", "bm25", "oracle", *METHODS}
    assert len({symbol for _, symbol, _ in figures.STYLES.values()}) == len(figures.STYLES)
    assert len({(colour, dash) for colour, _, dash in figures.STYLES.values()}) == len(figures.STYLES)


def test_names_without_a_style_get_one_that_nothing_else_in_the_figure_has():
    added = [f"method-{number}" for number in range(20)]
    looks = figures.styles([*figures.STYLES, *added])
    assert {name: looks[name] for name in figures.STYLES} == figures.STYLES
    assert len({symbol for _, symbol, _ in looks.values()}) == len(looks)
    assert figures.styles(reversed(looks)) == looks
    assert figures.styles(["mine", "clip"])["mine"] == figures.styles(["yours", "mine"])["mine"]
    assert len(figures.styles([*added, "one more"])) == 21


def test_every_figure_of_methods_takes_one_from_outside():
    steps = pd.DataFrame({"step": [1, 2], "loss": [2.0, 1], "logit_scale": 10.0, "AP in": [0.1, 0.2]})
    shared = {"second": "", "depth": 0, "p50_ms": 1.0, "mean": 0.5, "low": 0.0, "high": 1.0}
    mine, clip = ({"first": name, "system": name, **shared} for name in ("mine", "clip"))
    look = figures.styles(["mine"])["mine"]
    for figure in (
        figures.scores({"clip": {"a": (0.5, 0.4, 0.7)}, "mine": {"a": (0.2, 0.1, 0.3)}}, "AP"),
        figures.curves({"clip": steps, "mine": steps}),
        figures.reached({"clip": steps, "mine": steps}, "AP"),
        figures.quality_against_latency([mine, clip], "AP"),
    ):
        added, known = (next(trace for trace in figure.data if trace.name == name) for name in ("mine", "clip"))
        assert (added.line.color, added.marker.symbol) == look[:2]
        assert added.marker.symbol != known.marker.symbol


def test_figures_do_not_import_torch():
    """The app draws them on machines without it."""
    code = "import sys, gcl_toolkit.views.figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_curves_are_means_of_stretches():
    steps = pd.DataFrame({"step": range(1, 7), "loss": [6.0, 4, 3, 1, 2, 0], "logit_scale": 10.0})
    loss, scale = figures.curves({"clip": steps}, points=3).data
    assert (loss.x, loss.y) == ((1.5, 3.5, 5.5), (5, 2, 1))
    assert scale.y == (10, 10, 10)
    assert figures.curves({"clip": steps}, points=60).data[0].y == (6, 4, 3, 1, 2, 0)


def test_reached_draws_each_split_where_it_was_measured():
    measured = pd.DataFrame({"step": [1, 2, 3], "AP in": [np.nan, 0.2, 0.4], "AP out": [np.nan, 0.1, 0.3]})
    some = pd.DataFrame({"step": [1, 2], "AP out": [0.5, np.nan]})
    figure = figures.reached({"clip": measured, "graded": some}, "AP")
    drawn = {(line.name, line.xaxis): (line.x, line.y) for line in figure.data if line.x}
    assert drawn == {
        ("clip", "x"): ((2, 3), (0.2, 0.4)),
        ("clip", "x2"): ((2, 3), (0.1, 0.3)),
        ("graded", "x2"): ((1,), (0.5,)),
    }
    assert [title.text for title in figure.layout.annotations] == ["in", "out"]
    assert figures.reached({"clip": measured[["step"]]}, "AP") is None


def test_differences_count_every_query_once_on_its_side():
    values = np.array([-0.31, -0.02, 0, 0, 0.001, 0.31, 0.32])
    loss, tie, win = figures.differences(values, "AP").data
    assert [sum(bars.y) for bars in (loss, tie, win)] == [2, 2, 3]
    assert max(loss.x) < tie.x[0] == 0 < min(win.x)
    assert sum(sum(bars.y) for bars in figures.differences(np.zeros(3), "AP").data) == 3


@pytest.mark.parametrize(
    "figure", [figures.scores({"clip": {"a": (0.5, 0.4, 0.7)}}, "AP"), figures.differences([1], "AP")]
)
def test_backgrounds_are_transparent(figure):
    assert {figure.layout.paper_bgcolor, figure.layout.plot_bgcolor} == {"rgba(0,0,0,0)"}


def test_order_against_recall_has_a_point_with_two_intervals_for_each_method():
    order, recall = (
        {"graded": (0.8, 0.7, 0.9), "clip": (0.5, 0.4, 0.7)},
        {"graded": (0.6, 0.5, 0.8), "clip": (0.7, 0.6, 0.8)},
    )
    figure = figures.order_against_recall(order, recall)
    points = {trace.name: (trace.x[0], trace.y[0]) for trace in figure.data}
    assert points == {"graded": (0.6, 0.8), "clip": (0.7, 0.5)}
    clip = figure.data[1]
    assert (clip.error_y.array[0], clip.error_y.arrayminus[0]) == pytest.approx((0.2, 0.1))
    assert (clip.error_x.array[0], clip.error_x.arrayminus[0]) == pytest.approx((0.1, 0.1))
