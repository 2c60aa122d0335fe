"""Prediction-powered inference: the formula, its coverage by simulation, and the corrected verdict."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import references

from gcl_toolkit.errors import UserError
from gcl_toolkit.measure.metrics import NDCG
from gcl_toolkit.measure.ppi import corrected, corrected_mean, random_order
from gcl_toolkit.measure.verdict import Lists, verdict
from gcl_toolkit.measure.verdict import corrected as corrected_verdict

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from ppi import coverage, population


@pytest.fixture(scope="module")
def differences():
    return population(6_000)


def drawn(seed=0, queries=300, human=40):
    rng = np.random.default_rng(seed)
    people = pd.Series(rng.beta(1, 2, queries), [f"q{n}" for n in range(queries)])
    judge = 0.2 + 0.6 * people + rng.normal(0, 0.1, queries)
    return judge, people.sample(human, random_state=seed)


# -- the formula -------------------------------------------------------------------------------------------------------


def test_a_corrected_mean_is_the_regression_estimator():
    for seed in range(3):
        judge, human = drawn(seed)
        found = corrected_mean(judge, human, level=0.9)
        expected = references.double_sampling(judge.tolist(), judge.loc[human.index].tolist(), human.tolist(), 0.9)
        assert found[:3] == pytest.approx(expected, abs=1e-9)
        shuffled = corrected_mean(judge.sample(frac=1, random_state=1), human.sort_values(), level=0.9)
        assert shuffled == pytest.approx(found, abs=1e-12)


def test_a_judge_that_is_right_counts_as_people_and_one_that_knows_nothing_is_ignored():
    judge, human = drawn(human=100)
    right = corrected_mean(judge, judge.loc[human.index])
    half = 1.96 * judge.std() / np.sqrt(300)
    assert right.mean == pytest.approx(judge.mean())
    assert right.high - right.low == pytest.approx(2 * half, rel=0.02)
    for useless in (judge * 0 + 0.3, judge.sample(frac=1, random_state=3).set_axis(judge.index)):
        found = corrected_mean(useless, human)
        assert found.mean == pytest.approx(human.mean(), abs=0.01)
        assert found.high - found.low == pytest.approx(2 * 1.98 * human.std() / 10, rel=0.05)
    shifted = corrected_mean(1 - judge * 0.3, human)  # generous, compressed, even reversed: the slope adapts
    assert shifted[:4] == pytest.approx(corrected_mean(judge, human)[:4])


def test_a_difference_is_the_corrected_mean_of_the_differences():
    (f, y), (g, z) = drawn(0), drawn(1)
    z = 0.9 * g.loc[y.index]
    found, estimate = corrected((f, g), (y, z))
    assert estimate == corrected_mean(f - g, y - z)
    assert (found.difference, found.low, found.high) == estimate[:3]
    assert found.mean_a - found.mean_b == pytest.approx(found.difference)
    assert found.queries == 300
    same, _ = corrected((f, f), (y, y))
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_too_few_queries_and_unknown_ones_are_named():
    judge, human = drawn()
    with pytest.raises(UserError, match="9 human-judged queries; a judge can be corrected from 10"):
        corrected_mean(judge, human[:9])
    with pytest.raises(UserError, match="query 'q3' has human grades and none of the judge"):
        corrected_mean(judge.drop("q3"), pd.concat([human[:20], judge[["q3"]]]))


# -- coverage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labelled", [30, 50, 100, 200])
def test_the_corrected_interval_holds_the_truth_where_the_judge_alone_does_not(differences, labelled):
    """A judge that is generous to A's own products."""
    table = coverage(differences["people"], differences["generous to A"], labelled, 1_000, seed=labelled, boot=False)
    assert 0.93 <= table["covers"]["corrected"] <= 0.97
    assert table["covers"]["judge alone"] < 0.5
    assert table["width"]["corrected"] < 0.85 * table["width"]["people alone"]


@pytest.mark.parametrize("judge", ["noisy", "random", "perfect"])
def test_the_interval_holds_the_truth_with_any_judge(differences, judge):
    table = coverage(differences["people"], differences[judge], 50, 1_000, boot=False)
    assert 0.93 <= table["covers"]["corrected"] <= 0.97
    ratio = table["width"]["corrected"] / table["width"]["people alone"]
    assert (
        {"noisy": 0.6, "random": 0.98, "perfect": 0.2}[judge]
        < ratio
        < {"noisy": 0.9, "random": 1.1, "perfect": 0.3}[judge]
    )


def test_p_values_without_a_difference_are_uniform():
    rng = np.random.default_rng(0)
    p = []
    for _ in range(1_000):
        truth = rng.normal(0, 1, 200)
        p.append(corrected_mean(pd.Series(0.3 + truth + rng.normal(0, 0.7, 200)), pd.Series(truth[:30])).p_value)
    assert np.abs(np.sort(p) - np.arange(1, 1001) / 1000).max() < 1.95 / np.sqrt(1000)


def test_a_sample_that_was_chosen_misses_the_truth(differences):
    table = coverage(differences["people"], differences["generous to A"], 100, 300, chosen=True, boot=False)
    assert table["covers"]["corrected"] < 0.5


# -- the verdict -------------------------------------------------------------------------------------------------------


def judged(human=60, queries=400, seed=0):
    """Qrels by people of the first `human` queries in random order, and by a judge that is generous to A's products."""
    rng = np.random.default_rng(seed)
    true = rng.choice(5, p=[0.5, 0.2, 0.15, 0.1, 0.05], size=(queries, 30)).astype(float)
    rankings = {
        n: np.argsort(-(true + s * rng.normal(size=true.shape)), axis=1)[:, :10] for n, s in (("A", 1.2), ("B", 1))
    }
    shown = np.zeros((2, *true.shape), bool)
    for side, products in zip(shown, rankings.values(), strict=True):
        np.put_along_axis(side, products, True, axis=1)
    generous = np.clip(true + 2 * (shown[0] & ~shown[1]), 0, 4)
    ids = [f"q{n}" for n in range(queries)]
    query, product = np.nonzero(shown.any(axis=0))
    read = np.isin(query, random_order(ids)[:human])
    people = Lists(ids, query[read], product[read], true[query, product][read], rankings)
    every = replace(people, qrel_query=query, qrel_product=product, qrel_grade=true[query, product])
    return people, replace(every, qrel_grade=generous[query, product]), every


def test_a_corrected_verdict_agrees_with_people_against_the_judge():
    people, judge, every = judged()
    assert verdict(judge, "A", "B").outcome == "better"
    assert verdict(every, "A", "B").outcome == "worse"
    found = corrected_verdict(people, judge, "A", "B")
    assert found.outcome == "worse"
    assert found.sentence.endswith("(400 queries, corrected by 60 human-judged queries)")
    rows = random_order(people.query_ids)[:60]
    sides = [
        [lists.measured(people.rankings[name], NDCG @ 10).iloc[chosen] for name in "AB"]
        for lists, chosen in ((judge, slice(None)), (people, rows))
    ]
    assert found.difference == corrected(*sides)[0]
    assert found.variants["judge alone"] == verdict(judge, "A", "B").difference
    assert found.variants["people alone"].queries == 60


def test_queries_that_the_judge_left_open_are_left_out_and_people_count_to_the_first_gap():
    people, judge, _ = judged()
    order = random_order(people.query_ids)
    found = corrected_verdict(_without(people, order[41]), _without(judge, order[[3, 200]]), "A", "B")
    assert (found.difference.queries, found.human) == (398, 40)
    assert found.warnings == ["2 of 400 queries lack grades of the judge: left out"]


def test_the_human_queries_that_are_needed_settle_it():
    for seed in range(20):
        people, judge, every = judged(human=20, seed=seed)
        found = corrected_verdict(people, judge, "A", "B")
        if found.outcome == "open" and found.needed:
            break
    assert found.sentence.endswith(f"about {found.needed:,} more human-judged queries would settle it")
    assert found.warnings == ["with fewer than 30 human-judged queries the interval is unreliable"]
    d, z = found.difference, 1.959964 + 0.841621
    rows = random_order(people.query_ids)[:20]
    sides = [
        [lists.measured(people.rankings[name], NDCG @ 10).iloc[chosen] for name in "AB"]
        for lists, chosen in ((judge, slice(None)), (people, rows))
    ]
    estimate = corrected(*sides)[1]
    error = (estimate.residual / (20 + found.needed) + estimate.judge) ** 0.5
    assert z * error == pytest.approx(abs(d.difference), rel=0.05)
    assert found.detectable == pytest.approx(z * (d.high - d.low) / 2 / 2.1009, rel=1e-3)  # Student's, 18 degrees
    kept = np.isin(every.qrel_query, random_order(people.query_ids)[: 20 + found.needed])
    names = ("qrel_query", "qrel_product", "qrel_grade")
    more = replace(every, **{name: getattr(every, name)[kept] for name in names})
    after = corrected_verdict(more, judge, "A", "B")
    assert after.human == 20 + found.needed
    assert after.detectable == pytest.approx(abs(d.difference), rel=0.35)  # the residual variance is an estimate


def _without(lists, rows):
    """One pair of each of these queries unjudged."""
    first = [np.flatnonzero(lists.qrel_query == row)[0] for row in np.atleast_1d(rows)]
    names = ("qrel_query", "qrel_product", "qrel_grade")
    return replace(lists, **{name: np.delete(getattr(lists, name), first) for name in names})
