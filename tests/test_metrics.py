import json
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import references

from gcl_toolkit.errors import DataError, UserError
from gcl_toolkit.measure.metrics import (
    AP,
    ERR,
    METRICS,
    NDCG,
    RBP,
    RR,
    Precision,
    Recall,
    measure,
    measure_ranked,
    parse,
    ranked_gains,
)

CONFORMANCE = json.loads((Path(__file__).parent / "conformance" / "metrics.json").read_text())

TWINS = {
    **{NDCG @ k: lambda r, g, k=k: references.ndcg(r, g, k) for k in (1, 3, 10, 500)},
    NDCG: references.ndcg,
    ERR: references.err,
    ERR @ 5: lambda r, g: references.err(r, g, 5),
    ERR(4): lambda r, g: references.err(r, g, scale=4),
    ERR(2.5) @ 3: lambda r, g: references.err(r, g, 3, scale=2.5),
    RBP: references.rbp,
    RBP(0.9): lambda r, g: references.rbp(r, g, p=0.9),
    RBP(0.5) @ 4: lambda r, g: references.rbp(r, g, 4, p=0.5),
    AP: references.ap,
    AP @ 4: lambda r, g: references.ap(r, g, 4),
    RR: references.rr,
    RR @ 2: lambda r, g: references.rr(r, g, 2),
    Recall: references.recall,
    Recall @ 6: lambda r, g: references.recall(r, g, 6),
    **{Precision @ k: lambda r, g, k=k: references.precision(r, g, k) for k in (1, 7, 500)},
}


def uneven(seed):
    """Rankings of uneven length with ties, queries that the run or the qrels lack, zero and fractional grades."""
    rng = np.random.default_rng(seed)
    products = [f"p{i}" for i in range(40)]
    grades = [[0, 1], [0, 1, 2, 3], [0], [0, 1, 50, 99, 100], [0.25, 0, 7.5]]
    qrels, run = {}, {}
    for query in range(40):
        judged = rng.choice(products, rng.integers(0, 25), replace=False)
        qrels[f"q{query}"] = {p: rng.choice(grades[query % 5]).item() for p in judged.tolist()}
        retrieved = rng.choice(products, rng.integers(0, 41), replace=False)
        run[f"q{query + 3}"] = {p: rng.choice([0.1, 0.5, 0.5 + 1e-9, 0.9, -3.0]).item() for p in retrieved.tolist()}
    shuffled = rng.permutation(list(run)).tolist()
    return qrels, {query: run[query] for query in shuffled}


def test_a_ranking_worked_by_hand():
    """Grades 3 (a), 1 (b), 2 (c, not found); found are x, a, b: a at rank 2, b at rank 3."""
    values = measure(
        {"q": {"a": 3, "b": 1, "c": 2}},
        {"q": {"b": 0.2, "a": 0.5, "x": 0.9}},
        [NDCG @ 3, ERR, RBP(0.5), AP, RR, Recall @ 2, Precision @ 10],
    ).loc["q"]
    log3 = 1.584962500721156  # log2(3); log2(2) = 1, log2(4) = 2
    assert values["NDCG@3"] == pytest.approx((3 / log3 + 1 / 2) / (3 + 2 / log3 + 1 / 2), abs=1e-15)
    assert values["ERR"] == pytest.approx(7 / 8 / 2 + (1 / 8) * (1 / 8) / 3, abs=1e-15)
    assert values["RBP(0.5)"] == pytest.approx(0.25 * 1 + 0.125 * (1 / 3), abs=1e-15)
    assert values["AP"] == pytest.approx((1 / 2 + 2 / 3) / 3, abs=1e-15)
    assert values["RR"] == 0.5
    assert values["Recall@2"] == pytest.approx(1 / 3, abs=1e-15)
    assert values["Precision@10"] == 0.2


@pytest.mark.parametrize("ties", ["given", "trec"])
@pytest.mark.parametrize("seed", range(4))
def test_every_metric_equals_its_loop(ties, seed):
    qrels, run = uneven(seed)
    ranked = {"given": references.ranking_given, "trec": references.ranking_trec}[ties]
    table = measure(qrels, run, list(TWINS), ties=ties)
    assert list(table.index) == list(qrels)
    assert list(table.columns) == [str(metric) for metric in TWINS]
    assert table.index.name == "query_id"
    for query, graded in qrels.items():
        for metric, twin in TWINS.items():
            expected = twin(ranked(run.get(query, {})), graded)
            assert table.loc[query, str(metric)] == pytest.approx(expected, rel=0, abs=1e-12), (query, metric)
    assert (table.to_numpy() >= 0).all()
    assert (table.to_numpy() <= 1 + 1e-12).all()
    assert (table.mean() > 0.001).all()  # the data reaches every metric


@pytest.mark.parametrize("case", CONFORMANCE, ids=lambda case: case["name"])
def test_values_equal_pytrec_eval_and_the_official_script(case):
    names = {name: _metric(name) for name in next(iter(case["expected"].values()))}
    table = measure(case["qrels"], case["run"], list(names.values()), ties="trec")
    assert len(names) == 33
    for query, values in case["expected"].items():
        for name, metric in names.items():
            assert table.loc[query, str(metric)] == pytest.approx(values[name], rel=0, abs=1e-12), (query, name)


def _metric(pytrec_name):
    if pytrec_name in ("recip_rank", "err"):
        return {"recip_rank": RR, "err": ERR}[pytrec_name]
    name, number = pytrec_name.rsplit("_", 1)
    if name == "rbp":
        return RBP(int(number) / 10)
    return {"ndcg_cut": NDCG, "map_cut": AP, "recall": Recall, "P": Precision}[name] @ int(number)


def test_ties_follow_the_run_or_trec_eval():
    qrels, run = {"q": {"a": 1}}, {"q": {"a": 0.5, "b": 0.5 + 1e-9, "c": 0.1, "d": 0.5}}
    assert measure(qrels, run, [RR]).loc["q", "RR"] == 1 / 2  # b, a, d, c: the run's order of equal scores
    assert measure(qrels, run, [RR], ties="trec").loc["q", "RR"] == 1 / 3  # d, b, a, c: b = a = d as float32
    with pytest.raises(UserError, match=r"unknown order of ties 'random'; known: given, trec"):
        measure(qrels, run, [RR], ties="random")


def test_queries_without_an_answer_count_zero():
    metrics = [m @ 3 for m in METRICS.values()]
    table = measure({"found": {"a": 2}, "absent": {"a": 2}, "empty": {}, "all zero": {"a": 0}}, _run_of("a"), metrics)
    assert (table.loc["found"] > 0).all()
    assert (table.loc[["absent", "empty", "all zero"]] == 0).all(axis=None)
    assert (measure({"q": {"a": 1}}, {"q": {}}, metrics) == 0).all(axis=None)


def _run_of(product):
    return {query: {product: 1.0} for query in ("found", "empty", "all zero", "not in the qrels")}


@pytest.mark.parametrize("best", [100, 5000])
def test_err_stands_large_grades(best):
    graded = {"a": best, "b": best - 1, "c": 0}
    table = measure({"q": graded}, {"q": {"b": 3.0, "c": 2.0, "a": 1.0}}, [ERR, ERR(4)])
    stop_b = (2 ** (best - 1) - 1) / 2**best  # whole numbers, so exact however large
    assert table.loc["q", "ERR"] == pytest.approx(stop_b + (1 - stop_b) * ((2**best - 1) / 2**best) / 3, abs=1e-12)
    assert table.loc["q", "ERR(4)"] > table.loc["q", "ERR"]


def test_a_metric_is_a_value():
    assert NDCG @ 10 == NDCG @ np.int64(10) != NDCG @ 5
    assert len({NDCG @ 10, NDCG @ 10, NDCG, RBP(0.9), RBP(0.9), RBP}) == 4
    assert pickle.loads(pickle.dumps(RBP(0.9) @ 5)) == RBP(0.9) @ 5
    printed = ["NDCG@10", "ERR", "ERR(4)", "RBP(0.9)@5", "RBP(0.8)", "AP@3", "Precision@1"]
    assert [str(m) for m in (NDCG @ 10, ERR, ERR(4), RBP(0.9) @ 5, RBP, AP @ 3, Precision @ 1)] == printed
    assert f"{[NDCG @ 10, RR]}" == "[NDCG@10, RR]"
    for metric in TWINS:
        assert parse(str(metric)) == metric
    assert parse(" NDCG @ 10") == NDCG @ 10
    assert parse("RBP") == RBP == RBP(0.8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NDCG @ 0, r"NDCG@0: the cut-off must be an integer >= 1, as in NDCG @ 10"),
        (lambda: NDCG @ -1, r"NDCG@-1: the cut-off"),
        (lambda: NDCG @ 2.5, r"NDCG@2.5: the cut-off"),
        (lambda: RBP(1), r"RBP\(1\): the parameter must be between 0 and 1"),
        (lambda: ERR(0), r"ERR\(0\): the parameter must be between 0 and inf"),
        (lambda: NDCG(3), r"NDCG\(3\): NDCG takes no parameter; write NDCG"),
        (lambda: parse("MRR@10"), r"unknown metric 'MRR@10'; known: AP, ERR, NDCG, Precision, RBP, RR, Recall"),
        (lambda: parse("NDCG@ten"), r"unknown metric 'NDCG@ten'; known: .*NDCG@10"),
        (lambda: parse("NDCG@0"), r"cut-off must be"),
        (lambda: measure({"q": {"a": 1}}, {"q": {"a": 1}}, [Precision]), r"write Precision @ 10"),
        (lambda: measure({1: {"a": 1}}, {"1": {"a": 1}}, [RR]), r"no query is both in the qrels \(1\) .* run \('1'\)"),
        (lambda: measure({}, {"q": {}}, [RR]), r"qrels \(empty\)"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("qrels", "run", "message"),
    [
        (
            {"q1": {"1": 3}, "q2": {"3": 2}},
            {"q1": {1: 0.9}, "q2": {3: 0.9}},
            r"product of query 'q1' 1 of the run is '1'",
        ),
        ({"1": {"a": 3}, "x": {"b": 1}}, {1: {"a": 0.9}, "x": {"b": 0.3}}, r"query 1 of the run is '1' in the qrels"),
        ({"q": {7: 1, "b": 1}}, {"q": {"b": 1.0, "7": 0.5}}, r"product of query 'q' '7' of the run is 7 in the qrels"),
        ({"q": {7: 1}}, {"q": {np.float64(7.5): 1.0, "7": 0.5}}, r"ids must agree.*convert both to strings"),
    ],
)
def test_ids_of_different_types_are_an_error_rather_than_zeros(qrels, run, message):
    with pytest.raises(UserError, match=message):
        measure(qrels, run, [RR])


def test_numpy_ids_match_python_ids():
    assert measure({"q": {1: 1, 2: 1}}, {"q": {np.int64(1): 1.0, np.int64(3): 0.5}}, [RR]).loc["q", "RR"] == 1


@pytest.mark.parametrize("grade", [-1, np.nan, np.inf, None, "high"])
def test_a_bad_grade_is_named(grade):
    with pytest.raises(DataError, match=rf"query 'q', product 'b': grade is {grade!r}; a finite number >= 0"):
        measure({"q": {"a": 1, "b": grade}}, {"q": {"a": 1.0}}, [RR])


def test_a_bad_score_is_named():
    with pytest.raises(DataError, match=r"query 'q', product 'b': score is nan; a number is expected"):
        measure({"q": {"a": 1}}, {"q": {"a": 1.0, "b": np.nan}}, [RR])


def test_gains_are_looked_up_by_row_number():
    query, product = np.array([1, 0, 1, 2]), np.array([7, 7, 0, 3])
    retrieved_QxK = np.array([[7, 0, 9], [0, 5, 7], [-1, -1, -1]])
    gains_QxK = ranked_gains(query, product, np.array([2.0, 4.0, 8.0, 16.0]), retrieved_QxK)
    assert gains_QxK.tolist() == [[4, 0, 0], [8, 0, 2], [0, 0, 0]]
    assert ranked_gains(query[:0], product[:0], np.zeros(0), retrieved_QxK).tolist() == [[0, 0, 0]] * 3
    table = measure_ranked(gains_QxK, query, np.array([2.0, 4.0, 8.0, 16.0]), [Recall, NDCG])
    assert table["Recall"].tolist() == [1, 1, 0]


def test_padding_is_never_the_last_product_of_the_query_before():
    """Row 1 ends with -1; as a key that would be the last product of row 0."""
    assert ranked_gains(np.array([0]), np.array([5]), np.array([1.0]), np.array([[5], [-1]])).tolist() == [[1], [0]]


def test_pairs_that_would_count_twice_are_errors():
    grade, ranking = np.ones(2), np.array([[3, 4]])
    with pytest.raises(DataError, match=r"query row 0, product row 3 is judged twice"):
        ranked_gains(np.array([0, 0]), np.array([3, 3]), grade, ranking)
    with pytest.raises(DataError, match=r"query row 0 retrieves product row 4 twice"):
        ranked_gains(np.array([0, 0]), np.array([3, 4]), grade, np.array([[4, 3, 4]]))


def test_two_thousand_rankings_of_a_thousand_are_quick():
    rng = np.random.default_rng(0)
    retrieved_QxK = rng.permuted(np.tile(np.arange(1500), (2000, 1)), axis=1)[:, :1000]
    query, product = np.repeat(np.arange(2000), 100), np.tile(np.arange(100), 2000)
    grade = rng.integers(1, 101, len(query)).astype(float)
    started = time.process_time()
    gains_QxK = ranked_gains(query, product, grade, retrieved_QxK)
    table = measure_ranked(gains_QxK, query, grade, [NDCG @ k for k in range(1, 1000, 50)] + [NDCG])
    assert time.process_time() - started < 3  # .3 s on an idle core
    assert table.shape == (2000, 20 + 1)
