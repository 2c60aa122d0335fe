import numpy as np
import pytest

from gcl_toolkit.data.weighting import WEIGHTINGS, is_top, rescale, to_weights
from gcl_toolkit.errors import DataError, UserError

SCORES = np.array([100.0, 99, 91, 90, 51, 50, 1])  # positions 1, 2, 10, 11, 50, 51, 100


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1, 1, 1]),
        ("linear", [1, 0.99, 0.91, 0.9, 0.51, 0.5, 0.01]),
        ("relative", [1, 0.99, 0.91, 0.9, 0.51, 0.5, 0.01]),
        ("sqrt", [1, 2**-0.5, 10**-0.5, 11**-0.5, 50**-0.5, 51**-0.5, 0.1]),
        ("reciprocal", [1, 1 / 2, 1 / 10, 1 / 11, 1 / 50, 1 / 51, 1 / 100]),
        ("log", [1 / np.log2(1 + p) for p in (1, 2, 10, 11, 50, 51, 100)]),
        ("exponential", [np.exp(-(p - 1) / 10) for p in (1, 2, 10, 11, 50, 51, 100)]),
        ("piecewise", [1, 1, 1, 0.3, 0.3, 0.1, 0.1]),
    ],
)
def test_weights_by_position(name, expected):
    assert to_weights(SCORES, name) == pytest.approx(expected, abs=1e-12)


def test_every_registered_function_never_rises_as_the_position_grows():
    for name in WEIGHTINGS:
        weights = to_weights(np.arange(100, 0, -1), name)
        assert (np.diff(weights) <= 0).all(), name
        assert weights[0] == 1, name


def test_grades_reads_levels_not_values_and_zero_has_no_weight():
    assert to_weights([100, 60, 30, 60, 0], "grades") == pytest.approx([1, 0.1, 0.01, 0.1, 0])
    assert to_weights([3, 2, 1], "grades") == pytest.approx([1, 0.1, 0.01])


def test_relative_is_a_share_of_the_highest_score():
    assert to_weights([3, 2, 1, 0], "relative") == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert to_weights([0, 0], "relative") == pytest.approx([0, 0])


def test_auto_is_grades_for_grades_and_linear_for_positions():
    assert to_weights([100, 60, 30], "auto") == pytest.approx([1, 0.1, 0.01])
    positions = np.arange(100, 0, -1)
    assert to_weights(positions, "auto") == pytest.approx(to_weights(positions, "linear"))


def test_small_grades_are_spread_before_they_become_positions():
    assert to_weights([3, 2, 1], "reciprocal") == pytest.approx([1, 1 / 51, 1 / 100])


def test_sharp_is_grades_for_grades_and_reciprocal_for_positions():
    assert to_weights([100, 60, 30], "sharp") == pytest.approx([1, 0.1, 0.01])
    assert to_weights(np.arange(100, 0, -1), "sharp") == pytest.approx(1 / np.arange(1, 101))


def test_own_function_and_what_is_wrong_with_it():
    assert to_weights([1, 4], np.sqrt) == pytest.approx([1, 2])
    with pytest.raises(UserError, match="finite weights >= 0"):
        to_weights([1, 4], lambda s: -s)
    with pytest.raises(UserError, match=r"\(2,\)"):
        to_weights([1, 4], lambda s: s[:1])


@pytest.mark.parametrize(
    ("scores", "name", "words"),
    [
        ([1, np.nan], "linear", "score nan at row 1"),
        ([1, -2], "linear", "score -2.0 at row 1"),
        ([1, 101], "reciprocal", "above 100"),
        ([1, 2], "linaer", "unknown weighting 'linaer'; known: auto, constant"),
    ],
)
def test_bad_input_is_named(scores, name, words):
    with pytest.raises(UserError, match=words):
        to_weights(scores, name)
    assert issubclass(DataError, UserError)


def test_rescale_is_the_official_one_to_100():
    assert rescale([0, 1, 2, 3]).tolist() == [1, 34, 67, 100]
    assert rescale([5, 5]).tolist() == [1, 1]


def test_top_is_positions_1_to_10_or_the_best_grade():
    assert is_top(SCORES).tolist() == [True, True, True, False, False, False, False]
    assert is_top([100, 60, 30]).tolist() == [True, False, False]
