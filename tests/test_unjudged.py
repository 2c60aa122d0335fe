"""Unjudged products: counts, bounds by brute force, condensed lists and bpref against loops."""

from itertools import product

import numpy as np
import pytest
import references

from gcl_toolkit.data.ranked_data import Pairs
from gcl_toolkit.measure.metrics import NDCG, measure_ranked, ranked_gains
from gcl_toolkit.measure.unjudged import bounds, bpref, condensed, grades, pooled, unjudged

NONE = Pairs(np.zeros(0, int), np.zeros(0, int), np.zeros(0))


def pairs(graded):
    """[{product: grade} of each query]"""
    rows = [(query, product, grade) for query, found in enumerate(graded) for product, grade in found.items()]
    query, products, grade = map(np.array, zip(*rows, strict=True))
    return Pairs(query, products, grade.astype(float))


def ranking(lists, width):
    return np.array([[*found, *[-1] * (width - len(found))] for found in lists])


def drawn(rng, levels, products=7, k=3):
    """A query: some products graded, two rankings that overlap."""
    graded = {p: rng.choice(levels) for p in rng.permutation(products)[: rng.integers(0, products)]}
    a, b = (list(rng.permutation(products)[: rng.integers(0, k + 2)]) for _ in "ab")
    return graded, a, b


def test_grades_and_counts():
    qrels = pairs([{0: 0, 1: 0.1, 5: 3}, {2: 1}])
    found = grades(qrels, np.array([[1, 4, 0, -1], [0, -1, -1, -1]]))
    assert np.array_equal(found, [[0.1, np.nan, 0, 0], [np.nan, 0, 0, 0]], equal_nan=True)
    assert unjudged(found, 1).tolist() == [0, 1]
    assert unjudged(found, 10).tolist() == [1, 1]
    assert np.isnan(grades(NONE, np.array([[3, -1]]))).tolist() == [[True, False]]


def test_the_pool_is_each_unjudged_pair_of_the_first_ranks_once():
    qrels = pairs([{0: 2}, {3: 1}])
    a, b = np.array([[0, 1, 2], [4, -1, -1]]), np.array([[2, 1, 5], [3, 4, 0]])
    assert [rows.tolist() for rows in pooled(qrels, [a, b], 2)] == [[0, 0, 1], [1, 2, 4]]
    assert [len(rows) for rows in pooled(pairs([{0: 1}]), [np.array([[0, -1]])], 2)] == [0, 0]


@pytest.mark.parametrize(("levels", "k"), [([0, 1], 2), ([0, 1, 2, 4], 3), ([0.5, 3], 3), ([1, 2, 3, 50], 4)])
def test_bounds_are_the_extremes_over_all_grades(levels, k):
    """Every grade of the levels, 0 and the highest for every unjudged product: attained, and never passed."""
    rng = np.random.default_rng(0)
    queries = [drawn(rng, levels, k=k) for _ in range(60)]
    graded, a, b = zip(*queries, strict=True)
    qrels, width = pairs(graded), k + 1
    rankings = ranking(a, width), ranking(b, width)
    low_Q, high_Q = bounds(qrels, *rankings, k)
    alone_low_Q, alone_high_Q = bounds(qrels, rankings[0], None, k)
    steps = sorted({0, *levels})
    for query, (known, first, second) in enumerate(queries):
        for others, low, high in (([second], low_Q, high_Q), ([], alone_low_Q, alone_high_Q)):
            shown = {p for found in (first, *others) for p in found[:k]}
            missing = sorted(shown - known.keys())
            values = []
            for chosen in product(steps, repeat=len(missing)):
                full = known | dict(zip(missing, chosen, strict=True))
                values.append(
                    references.ndcg(first, full, k) - sum(references.ndcg(other, full, k) for other in others)
                )
            assert (low[query], high[query]) == pytest.approx((min(values), max(values)), abs=1e-9)


def test_no_grades_between_the_levels_leave_the_bounds():
    rng = np.random.default_rng(1)
    queries = [drawn(rng, [0, 1, 2, 3, 4], products=30, k=10) for _ in range(40)]
    graded, a, b = zip(*queries, strict=True)
    qrels, rankings = pairs(graded), (ranking(a, 11), ranking(b, 11))
    low_Q, high_Q = bounds(qrels, *rankings, 10, highest=5)
    plain = [
        measure_ranked(ranked_gains(*qrels, r), qrels.query, qrels.score, [NDCG @ 10])["NDCG@10"] for r in rankings
    ]
    plain_Q = (plain[0] - plain[1]).to_numpy()
    assert (low_Q <= plain_Q + 1e-12).all()
    assert (plain_Q <= high_Q + 1e-12).all()
    for query, (known, first, second) in enumerate(queries):
        missing = sorted({*first[:10], *second[:10]} - known.keys())
        for _ in range(150):
            chosen = rng.choice([rng.uniform(0, 5, len(missing)), 5.0 * rng.integers(2, size=len(missing))])
            full = known | dict(zip(missing, chosen, strict=True))
            gap = references.ndcg(first, full, 10) - references.ndcg(second, full, 10)
            assert low_Q[query] - 1e-9 <= gap <= high_Q[query] + 1e-9


def test_bounds_close_when_all_is_judged_and_rankings_that_agree_differ_by_nothing():
    graded = [{p: p % 3 for p in range(8)}]
    a, b = ranking([[1, 2, 3]], 3), ranking([[3, 2, 1]], 3)
    low, high = bounds(pairs(graded), a, b, 3)
    assert low == high != 0
    assert bounds(pairs([{0: 4}]), a, a, 3) == (0, 0)  # the same unjudged products get the same grades
    assert bounds(pairs([{0: 0}]), a, b, 3) == (0, 0)  # no grade above 0 is known


def test_blocks_of_queries_give_the_same_bounds(monkeypatch):
    rng = np.random.default_rng(2)
    graded, a, b = zip(*[drawn(rng, [0, 1, 2]) for _ in range(30)], strict=True)
    arguments = pairs(graded), ranking(a, 4), ranking(b, 4), 3
    whole = bounds(*arguments)
    monkeypatch.setattr("gcl_toolkit.measure.unjudged.BLOCK", 1)
    assert np.array_equal(whole, bounds(*arguments))


def test_a_condensed_list_drops_what_is_unjudged():
    qrels = pairs([{0: 0, 1: 2}, {5: 1}])
    products = np.array([[7, 1, 8, 0], [5, 6, -1, -1]])
    assert condensed(grades(qrels, products), products).tolist() == [[1, 0, -1, -1], [5, -1, -1, -1]]


@pytest.mark.parametrize("levels", [[0, 1], [0, 1, 2, 4], [0.5, 1, 3]])
def test_bpref_is_the_loop_over_pairs(levels):
    rng = np.random.default_rng(3)
    graded, lists, _ = zip(*[drawn(rng, levels, products=12, k=9) for _ in range(80)], strict=True)
    qrels, products = pairs(graded), ranking(lists, 11)
    expected = [references.bpref(found, known) for found, known in zip(lists, graded, strict=True)]
    assert bpref(grades(qrels, products), qrels) == pytest.approx(np.array(expected), abs=1e-12)
    assert len({*expected}) > 10


def test_bpref_by_hand():
    """Binary (Buckley & Voorhees 2004, normalised by all non-relevant): 1 of 2 non-relevant stands above the second."""
    qrels = pairs([{0: 1, 1: 1, 2: 0, 3: 0}])
    assert bpref(grades(qrels, np.array([[0, 9, 2, 1]])), qrels) == pytest.approx([(1 + 0.5) / 2])
    assert bpref(grades(qrels, np.array([[9, 9 - 1, -1, -1]])), qrels) == [0]
