"""Verdicts: equal to statistics.paired, worded, and honest about what is unjudged or too small to see."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from gcl_toolkit.errors import UserError
from gcl_toolkit.measure.metrics import NDCG, RR, measure
from gcl_toolkit.measure.slices import by_slice
from gcl_toolkit.measure.statistics import Difference, holm, minimal_detectable_effect, paired
from gcl_toolkit.measure.verdict import Lists, tied, verdict

PRODUCTS = 40


def lists(noises, queries=80, judged=1.0, seed=0, **options):
    """Systems that see the true grade (0..3) with noise; `judged`: the share of pairs with a grade."""
    rng = np.random.default_rng(seed)
    true = rng.choice(4, p=[0.7, 0.15, 0.1, 0.05], size=(queries, PRODUCTS)).astype(float)
    known = rng.random(true.shape) < judged
    query, product = np.nonzero(known)
    rankings = {
        name: np.argsort(-(true + noise * rng.normal(size=true.shape)), axis=1)[:, :20]
        for name, noise in noises.items()
    }
    ids = [f"q{row:03d}" for row in range(queries)]
    labels = pd.DataFrame({"half": np.where(np.arange(queries) < 20, "few", "many")}, index=ids)
    return Lists(ids, query, product, true[query, product], rankings, **{"labels": labels, **options})


def by_measure(made, system, metric):
    """The metric from dictionaries."""
    qrels = {query: {} for query in made.query_ids}
    for query, product, grade in zip(made.qrel_query, made.qrel_product, made.qrel_grade, strict=True):
        qrels[made.query_ids[query]][product] = grade
    run = {
        query: {product: -rank for rank, product in enumerate(products.tolist()) if product >= 0}
        for query, products in zip(made.query_ids, made.rankings[system], strict=True)
    }
    return measure(qrels, run, [metric])[str(metric)]


@pytest.mark.parametrize("metric", [NDCG @ 10, RR])
def test_a_verdict_is_the_paired_comparison(metric):
    made = lists({"new": 0.5, "old": 0.8}, judged=0.7)
    found = verdict(made, "new", "old", metric)
    new, old = (by_measure(made, name, metric) for name in ("new", "old"))
    assert found.difference == paired(new, old)
    assert found.outcome == ("better" if found.difference.low > 0 else "open")
    assert found.detectable == minimal_detectable_effect(new - old)
    back = verdict(made, "old", "new", metric, level=0.8)
    assert back.difference == paired(old, new, level=0.8)
    assert back.outcome == ("worse" if back.difference.high < 0 else "open")


def test_the_sentence_says_what_was_found():
    made = lists({"new": 0.5, "old": 0.8})
    found = verdict(made, "new", "old")
    d = Difference("NDCG@10", 0.4, 0.37, 0.031, 0.012, 0.05, 0.1, 0, 0.2, 0.001, 1000)
    assert (
        replace(found, difference=d).sentence == "new is better than old by .031 NDCG@10 [.012, .050] (1,000 queries)"
    )
    worse = replace(found, outcome="worse", difference=replace(d, difference=-0.031, low=-0.05, high=-0.012))
    assert worse.sentence == "new is worse than old by .031 NDCG@10 [.012, .050] (1,000 queries)"
    unclear = replace(
        found, outcome="open", needed=2300, difference=replace(d, difference=0.004, low=-0.01, high=0.018)
    )
    begin = "new and old can't be separated: +.004 NDCG@10 [-.010, +.018] (1,000 queries); "
    assert unclear.sentence == begin + "about 2,300 more judged queries would settle it"
    hopeless = replace(unclear, needed=None, detectable=0.02)
    assert hopeless.sentence == begin + "these queries can show differences of .020 or more"


def _open(seed):
    """A verdict that more queries would settle, and the differences that it is about."""
    made = lists({"new": 0.45, "old": 0.5}, seed=seed)
    found = verdict(made, "new", "old")
    gaps = by_measure(made, "new", NDCG @ 10) - by_measure(made, "old", NDCG @ 10)
    return (found, gaps.to_numpy()) if found.needed else None


def test_the_queries_that_are_needed_have_the_promised_power():
    """A study with as many queries as asked for finds a true difference of the size observed in 4 of 5 cases."""
    rng = np.random.default_rng(5)
    found, gaps = next(_open(seed) for seed in range(20) if _open(seed))
    assert 80 < found.needed < 100 * 80
    zero = np.zeros(80 + found.needed)
    studies = (paired(rng.choice(gaps, len(zero)), zero, samples=200) for _ in range(300))
    assert 0.72 < np.mean([study.difference * gaps.mean() > 0 and study.p_value < 0.05 for study in studies]) < 0.88
    made = lists({"new": 0.5})
    same = verdict(replace(made, rankings=made.rankings | {"old": made.rankings["new"]}), "new", "old")
    assert (same.outcome, same.needed) == ("open", None)


def test_what_is_unjudged_is_counted_bounded_and_warned_of():
    complete, holed = (verdict(lists({"new": 0.5, "old": 0.8}, judged=j), "new", "old") for j in (1.0, 0.5))
    assert complete.unjudged == {"new": 0, "old": 0}
    assert complete.bounds == pytest.approx((complete.difference.difference,) * 2)
    assert complete.variants["condensed list"] == complete.difference
    assert complete.warnings == []
    assert 4 < holed.unjudged["new"] < 6
    low, high = holed.bounds
    assert low < 0 < holed.difference.difference < high
    assert low < complete.difference.difference < high
    assert holed.warnings[0].startswith("the unjudged products decide")
    assert set(holed.variants) == {"condensed list", "bpref"}
    assert holed.variants["bpref"].metric == "bpref"
    for a, b in (("new", "old"), ("old", "new")):  # few are unjudged: they can't turn the difference round
        nearly = verdict(lists({"new": 0.2, "old": 2.0}, judged=0.98), a, b)
        assert 0 < nearly.unjudged["new"] < 0.5
        assert np.sign(nearly.bounds).tolist() == [np.sign(nearly.difference.difference)] * 2
        assert nearly.warnings == []
    made = lists({"new": 0.5, "old": 0.8}, judged=0.5, unlisted="irrelevant")
    listed = verdict(made, "new", "old")
    assert listed.unjudged == holed.unjudged
    assert (listed.warnings, listed.variants) == ([], {})
    assert listed.bounds == (listed.difference.difference,) * 2
    assert np.isnan(verdict(lists({"new": 0.5, "old": 0.8}), "new", "old", RR).bounds).all()


def test_holes_that_favour_one_system_are_warned_of():
    """The old system was pooled, the new one's products are unjudged where they are not the old one's: it seems worse,
    though it is better on all that is judged."""
    made = lists({"new": 0.2, "old": 1.0})
    pooled = np.zeros((80, PRODUCTS), bool)
    np.put_along_axis(pooled, made.rankings["old"][:, :6], True, axis=1)
    kept = pooled[made.qrel_query, made.qrel_product]
    made = replace(made, qrel_query=made.qrel_query[kept], qrel_product=made.qrel_product[kept])
    found = verdict(replace(made, qrel_grade=made.qrel_grade[kept]), "new", "old")
    assert found.outcome == "worse"
    assert any("(condensed list) new is better" in warning for warning in found.warnings)


def test_few_queries_and_queries_without_a_grade_are_warned_of():
    made = lists({"new": 0.5, "old": 0.8})
    found = verdict(made, "new", "old", queries=np.arange(80) < 20)
    assert found.difference == verdict(made, "new", "old", queries=np.arange(20)).difference
    assert found.difference.queries == 20
    assert found.warnings == ["with fewer than 30 queries the interval is unreliable"]
    kept = made.qrel_query != 3
    holed = replace(made, **{n: getattr(made, n)[kept] for n in ("qrel_query", "qrel_product", "qrel_grade")})
    warning = "1 of 80 queries have no product with a grade above 0; they count 0 for both"
    assert warning in verdict(holed, "new", "old").warnings


def test_slices_are_by_loss_corrected_and_flagged():
    made = lists({"new": 0.5, "old": 0.8})
    swapped = {name: products.copy() for name, products in made.rankings.items()}
    swapped["new"][:20], swapped["old"][:20] = made.rankings["old"][:20], made.rankings["new"][:20]
    made = replace(made, rankings=swapped)
    found = verdict(made, "new", "old").slices
    assert found[["slice", "queries", "few", "regressed"]].to_numpy().tolist() == [
        ["few", 20, True, True],
        ["many", 60, False, False],
    ]
    values = [by_measure(made, name, NDCG @ 10).to_frame() for name in ("new", "old")]
    table = by_slice(*values, made.labels, samples=2000).iloc[1:]
    assert found["difference"].tolist() == table["difference"].tolist()
    assert found["p_corrected"].tolist() == holm([d.p_value for d in table["difference"]]).tolist()
    assert verdict(replace(made, labels=None), "new", "old").slices.columns.tolist() == found.columns.tolist()


def test_a_loss_in_each_of_many_slices_is_found():
    """With 2,000 resamples, p-values after Holm's correction over 110 slices would be at least .055."""
    made = lists({"new": 4.0, "old": 0.1}, queries=1760)
    labels = pd.DataFrame({"category": [f"c{row // 16}" for row in range(1760)]}, index=made.query_ids)
    table = verdict(replace(made, labels=labels), "new", "old").slices
    assert len(table) == 110
    assert table["regressed"].mean() > 0.9


def test_systems_are_tied_in_groups():
    noises = {"a": 0.5, "same": 0.5, "bad": 1.5, "worst": 4.0}
    made = lists(noises)
    assert [set(group) for group in tied(made)] == [{"a", "same"}, {"bad"}, {"worst"}]
    middle = lists({"good": 0.3, "middle": 0.36, "bad": 0.42}, queries=30, seed=19)
    p = {
        (x, y): paired(by_measure(middle, x, NDCG @ 10), by_measure(middle, y, NDCG @ 10)).p_value
        for x, y in (("good", "middle"), ("middle", "bad"), ("good", "bad"))
    }
    apart = holm(list(p.values())) < 0.05
    assert p["good", "middle"] < 0.05  # significant only before the correction
    assert apart.tolist() == [False, False, True]  # overlapping groups
    assert tied(middle) == [("good", "middle"), ("middle", "bad")]
    assert tied(lists({"only": 1.0})) == [("only",)]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lists({"old": 0.5}), "unknown system 'new'; known: old"),
        (lists({"new": 0.5, "old": 0.5}, queries=1), "1 queries and 40 judgements; a verdict needs two"),
        (lists({"new": 0.5, "old": 0.5}, judged=0), "80 queries and 0 judgements"),
    ],
)
def test_what_cannot_be_compared_is_named(made, message):
    with pytest.raises(UserError, match=message):
        verdict(made, "new", "old")


def test_a_verdict_needs_no_torch():
    code = "import sys, gcl_toolkit.measure.verdict, gcl_toolkit.measure.ppi; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
