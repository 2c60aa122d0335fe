"""Figures carry the numbers they were given, in ways that read without colour."""

import numpy as np
import pandas as pd
import pytest

from gcl_toolkit import figures
from gcl_toolkit.study import LABORATORY, METHODS


def test_scores_shows_each_mean_between_its_ends():
    figure = figures.scores({"clip": {"a": (0.5, 0.4, 0.7), "b": (0.2, 0.1, 0.3)}}, "AP", {"a": "first"})
    (dots,) = figure.data
    assert dots.x == (0.5, 0.2)
    assert dots.error_x.array == pytest.approx((0.2, 0.1))
    assert dots.error_x.arrayminus == pytest.approx((0.1, 0.1))
    assert figure.layout.yaxis.ticktext == ("first", "b")


def test_scores_of_things_without_a_style_differ():
    one, other = figures.scores({"mine": {"a": (0.5, 0.4, 0.7)}, "yours": {"a": (0.2, 0.1, 0.3)}}, "AP").data
    assert one.marker.symbol != other.marker.symbol
    assert one.marker.color != other.marker.color


def test_methods_differ_by_symbol_and_those_of_one_colour_by_dash():
    assert set(figures.STYLES) == {*METHODS, *LABORATORY}
    assert len({symbol for _, symbol, _ in figures.STYLES.values()}) == len(figures.STYLES)
    assert len({(colour, dash) for colour, _, dash in figures.STYLES.values()}) == len(figures.STYLES)


def test_curves_are_means_of_stretches():
    steps = pd.DataFrame({"step": range(1, 7), "loss": [6.0, 4, 3, 1, 2, 0], "logit_scale": 10.0})
    loss, scale = figures.curves({"clip": steps}, points=3).data
    assert (loss.x, loss.y) == ((1.5, 3.5, 5.5), (5, 2, 1))
    assert scale.y == (10, 10, 10)
    assert figures.curves({"clip": steps}, points=60).data[0].y == (6, 4, 3, 1, 2, 0)


def test_reached_draws_each_split_where_it_was_measured():
    measured = pd.DataFrame({"step": [1, 2, 3], "AP in": [np.nan, 0.2, 0.4], "AP out": [np.nan, 0.1, 0.3]})
    some = pd.DataFrame({"step": [1, 2], "AP out": [0.5, np.nan]})
    figure = figures.reached({"clip": measured, "gcl-matrix": some}, "AP")
    drawn = {(line.name, line.xaxis): (line.x, line.y) for line in figure.data if line.x}
    assert drawn == {
        ("clip", "x"): ((2, 3), (0.2, 0.4)),
        ("clip", "x2"): ((2, 3), (0.1, 0.3)),
        ("gcl-matrix", "x2"): ((1,), (0.5,)),
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
