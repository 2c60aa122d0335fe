"""Agreement of judges, against loops and published numbers."""

import numpy as np
import pandas as pd
import pytest
import references

from gcl_toolkit.measure.agreement import alpha, kappas, weighted_kappa


def table(grades_JxI):
    """A row a judge; None where a judge has no grade."""
    rows = [(i, f"j{j}", g) for j, row in enumerate(grades_JxI) for i, g in enumerate(row) if g is not None]
    return pd.DataFrame(rows, columns=["item", "judge", "grade"])


def drawn(rng, judges, items, missing):
    true = rng.integers(5, size=items)
    grades = np.clip(true + rng.integers(-1, 2, size=(judges, items)), 0, 4)
    return [[None if rng.random() < missing else int(g) for g in row] for row in grades]


def test_kappa_is_the_textbook_formula():
    rng = np.random.default_rng(0)
    for _ in range(5):
        first, second = drawn(rng, 2, 40, 0)
        expected = references.weighted_kappa(list(zip(first, second, strict=True)))
        assert weighted_kappa(first, second) == pytest.approx(expected, abs=1e-12)
    assert weighted_kappa([2, 2], [2, 2]) == 1
    assert weighted_kappa([0, 4], [4, 0]) == pytest.approx(-1)


def test_kappas_are_of_the_items_that_both_graded():
    found = kappas(table([[0, 1, 2, None], [0, 2, None, 3], [None, None, None, 1]]))
    assert found[["first", "second", "items"]].to_numpy().tolist() == [["j0", "j1", 2], ["j1", "j2", 1]]
    assert found["kappa"][0] == pytest.approx(references.weighted_kappa([(0, 0), (1, 2)]))


@pytest.mark.parametrize("missing", [0, 0.3])
def test_alpha_is_the_loop_over_pairs_of_grades(missing):
    rng = np.random.default_rng(1)
    for judges in (2, 3, 5):
        grades = drawn(rng, judges, 30, missing)
        assert alpha(table(grades)) == pytest.approx(references.krippendorff_alpha(grades), abs=1e-12)


def test_alpha_of_krippendorffs_example():
    """Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section C: four observers, twelve units;
    .815 for ordinal data."""
    grades = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    assert alpha(table(grades)) == pytest.approx(0.815, abs=5e-4)
    assert alpha(table([row[:11] for row in grades])) == alpha(table(grades))  # the twelfth has one grade
    assert alpha(table([[1, 1], [1, 1]])) == 1
    assert np.isnan(alpha(table([[1, None], [None, 1]])))
