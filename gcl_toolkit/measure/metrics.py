"""Ranking metrics as values: `NDCG @ 10`, `ERR`, `RBP(0.9)`; measured for all queries at once.

Every metric is in 0..1, larger is better, and 0 for a query without a product of grade > 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from gcl_toolkit.errors import DataError, UserError, unknown

Grades = Mapping[Any, Mapping[Any, float]]
"""{query id: {product id: grade or score}}"""


@dataclass(frozen=True)
class Ranked:
    """The input of the formulas: the relevant products retrieved, and all judged pairs.

    gain_QxH, rank_QxH: grade (> 0) and rank (from 1) of each one retrieved, by rank; padded with 0 and inf.
    judged_query, judged_grade: one entry a pair, sorted by query row, then by descending grade.
    """

    gain_QxH: np.ndarray
    rank_QxH: np.ndarray
    judged_query: np.ndarray
    judged_grade: np.ndarray
    _hits_Q: dict[int | None, np.ndarray] = field(default_factory=dict)

    def hits_Q(self, cutoff: int | None) -> np.ndarray:
        """The number of relevant products within the cut-off."""
        if cutoff not in self._hits_Q:
            self._hits_Q[cutoff] = (self.rank_QxH <= (cutoff or np.finfo(float).max)).sum(axis=1)
        return self._hits_Q[cutoff]

    def total_Q(self, sums_QxH: np.ndarray, cutoff: int | None) -> np.ndarray:
        """Of running sums over relevant products, the value at the last one within the cut-off."""
        hits_Q = self.hits_Q(cutoff)
        return np.where(hits_Q > 0, sums_QxH[np.arange(len(hits_Q)), hits_Q - 1], 0)

    @cached_property
    def discounted_QxH(self) -> np.ndarray:
        return np.cumsum(self.gain_QxH / np.log2(self.rank_QxH + 1), axis=1)

    @cached_property
    def precision_QxH(self) -> np.ndarray:
        return np.cumsum(np.arange(1, self.rank_QxH.shape[1] + 1) / self.rank_QxH, axis=1)

    @cached_property
    def begin_Q1(self) -> np.ndarray:
        """Index of each query's first judged pair, and the number of pairs."""
        return np.searchsorted(self.judged_query, np.arange(len(self.gain_QxH) + 1))

    @cached_property
    def ideal_gain(self) -> np.ndarray:
        """The discounted grade of each judged pair in its query's ideal ranking, followed by a 0."""
        rank = np.arange(len(self.judged_query)) - np.repeat(self.begin_Q1[:-1], np.diff(self.begin_Q1))
        return np.append(self.judged_grade / np.log2(rank + 2), 0)

    @cached_property
    def best_Qx1(self) -> np.ndarray:
        """The largest grade of each query; arbitrary for queries without judged products, whose gains are 0."""
        return np.append(self.judged_grade, 0)[self.begin_Q1[:-1], None]

    @cached_property
    def relevant_Q(self) -> np.ndarray:
        """The number of products of each query with a grade > 0."""
        return np.bincount(self.judged_query[self.judged_grade > 0], minlength=len(self.gain_QxH))


@dataclass(frozen=True, repr=False)
class Metric:
    """A metric with its parameter and cut-off: `NDCG @ 10`, `RBP(0.9)`. Hashable; prints as it is typed.

    formula: (Ranked, cut-off, parameter) -> one value a query. parameter_below: the exclusive upper bound of the
    parameter (the lower one is 0), None without one. Raises UserError for a parameter out of range.
    """

    name: str
    formula: Callable[[Ranked, int | None, float | None], np.ndarray] = field(compare=False)
    parameter: float | None = None
    cutoff: int | None = None
    parameter_below: float | None = field(default=None, compare=False)

    def __call__(self, parameter: float) -> Metric:
        if self.parameter_below is None:
            raise UserError(f"{self.name}({parameter}): {self.name} takes no parameter; write {self.name}")
        if not 0 < parameter < self.parameter_below:
            raise UserError(f"{self.name}({parameter}): the parameter must be between 0 and {self.parameter_below:g}")
        return replace(self, parameter=float(parameter))

    def __matmul__(self, cutoff: int) -> Metric:
        if not isinstance(cutoff, int | np.integer) or cutoff < 1:
            raise UserError(f"{self}@{cutoff}: the cut-off must be an integer >= 1, as in {self.name} @ 10")
        return replace(self, cutoff=int(cutoff))

    def __repr__(self) -> str:
        parameter = "" if self.parameter is None else f"({str(self.parameter).removesuffix('.0')})"
        return self.name + parameter + ("" if self.cutoff is None else f"@{self.cutoff}")


# -- the formulas ------------------------------------------------------------------------------------------------------


def _ndcg(ranked, cutoff, _):
    """trec_eval's: linear gain, log2 discount, ideal over all judged products at the same cut-off."""
    begin_Q, end_Q = ranked.begin_Q1[:-1], ranked.begin_Q1[1:]
    end_Q = np.minimum(begin_Q + cutoff, end_Q) if cutoff else end_Q
    # a query without judged pairs gets the next one's, which divides a 0
    ideal_Q = np.add.reduceat(ranked.ideal_gain, np.stack([begin_Q, end_Q], 1).ravel())[::2]
    return ratio(ranked.total_Q(ranked.discounted_QxH, cutoff), ideal_Q)


def _err(ranked, cutoff, scale):
    """Expected reciprocal rank (Chapelle et al. 2009); a user stops at grade g with probability (2^g - 1) / 2^best.

    `best` is the query's largest grade. As in GCL's evaluation there is no cut-off and no rescaling by default. With
    grades up to 100, each grade below the best halves the probability, so that little but the best product's rank
    counts. `ERR(4)` first rescales the grades of each query to 0..4, the usual range.
    """
    gain_QxH, best_Qx1 = ranked.gain_QxH, ranked.best_Qx1
    if scale is not None:
        gain_QxH, best_Qx1 = scale * ratio(gain_QxH, best_Qx1), np.full_like(best_Qx1, scale)
    stops_QxH = np.exp2(gain_QxH - best_Qx1) - np.exp2(-best_Qx1)  # 2^best itself would overflow
    reaches_QxH = np.cumprod(1 - stops_QxH, axis=1)
    stops_QxH[:, 1:] *= reaches_QxH[:, :-1]
    return ranked.total_Q(np.cumsum(stops_QxH / ranked.rank_QxH, axis=1), cutoff)


def _rbp(ranked, cutoff, persistence):
    """Rank-biased precision (Moffat & Zobel 2008) with gain grade / best grade of the query."""
    weight_QxH = (1 - persistence) * np.exp2(np.log2(persistence) * (ranked.rank_QxH - 1))  # p^(rank - 1), faster
    return ratio(ranked.total_Q(np.cumsum(ranked.gain_QxH * weight_QxH, axis=1), cutoff), ranked.best_Qx1[:, 0])


def _ap(ranked, cutoff, _):
    """Precision at the rank of each relevant product, summed, over the number of relevant products."""
    return ratio(ranked.total_Q(ranked.precision_QxH, cutoff), ranked.relevant_Q)


def _rr(ranked, cutoff, _):
    """One over the rank of the first relevant product."""
    return np.where(ranked.hits_Q(cutoff) > 0, 1 / ranked.rank_QxH[:, 0], 0)


def _recall(ranked, cutoff, _):
    """The share of the relevant products that is retrieved."""
    return ratio(ranked.hits_Q(cutoff), ranked.relevant_Q)


def _precision(ranked, cutoff, _):
    """The share of the first `cutoff` ranks with a relevant product; empty ranks count as misses."""
    if cutoff is None:
        raise UserError("Precision needs a cut-off: write Precision @ 10")
    return ranked.hits_Q(cutoff) / cutoff


NDCG = Metric("NDCG", _ndcg)
ERR = Metric("ERR", _err, parameter_below=np.inf)
RBP = Metric("RBP", _rbp, parameter=0.8, parameter_below=1)
AP = Metric("AP", _ap)
RR = Metric("RR", _rr)
Recall = Metric("Recall", _recall)
Precision = Metric("Precision", _precision)
METRICS = {metric.name: metric for metric in (NDCG, ERR, RBP, AP, RR, Recall, Precision)}


def parse(text: str) -> Metric:
    """The metric written as text, for the command line: `parse("NDCG@10") == NDCG @ 10`."""
    match = re.fullmatch(r"(\w+)(?:\((\d*\.?\d+)\))?(?:@(\d+))?", text.replace(" ", ""))
    if match is None or match[1] not in METRICS:
        raise unknown("metric", text, [*METRICS, "and with a cut-off or parameter as in NDCG@10, RBP(0.9)"])
    metric = METRICS[match[1]](float(match[2])) if match[2] else METRICS[match[1]]
    return metric @ int(match[3]) if match[3] else metric


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure(qrels: Grades, run: Grades, metrics: Sequence[Metric], *, ties: str = "given") -> pd.DataFrame:
    """One row a query of the qrels (in their order), one column a metric, named as it prints; `.mean()` is the score.

    qrels: {query: {product: grade}}, finite, >= 0; for AP, RR, Recall and Precision a grade > 0 is relevant.
    run: {query: {product: score}}, larger is better. A query missing from the run counts 0 (pytrec_eval drops it from
    the mean); queries without qrels are ignored.
    ties: "given" keeps the run's order of equal scores; "trec" is trec_eval's: scores are compared as float32, equal
    ones are in descending order of the product ids.
    Raises UserError for ids that don't match, DataError for a bad grade or score, naming query and product.
    """
    if ties not in _ORDERS:
        raise unknown("order of ties", ties, _ORDERS)
    if not any(query in run for query in qrels):
        raise UserError(f"no query is both in the qrels ({_some(qrels)}) and in the run ({_some(run)}); ids must agree")
    _check_ids("query", qrels, run)
    for query, graded in qrels.items():
        _check_ids(f"product of query {query!r}", graded, run.get(query, {}))
    _check(qrels, "grade", lambda grades: np.isfinite(grades) & (grades >= 0), "a finite number >= 0")
    _check(run, "score", lambda scores: ~np.isnan(scores), "a number")
    row_of = {p: row for row, p in enumerate(dict.fromkeys(p for graded in qrels.values() for p in graded))}
    retrieved_QxK = np.full((len(qrels), max(len(run.get(query, ())) for query in qrels)), -1)
    for row, query in enumerate(qrels):
        if scores := run.get(query):
            products = [row_of.get(product, -1) for product in scores]
            retrieved_QxK[row, : len(products)] = np.array(products)[_ORDERS[ties](scores)]
    qrel_query = np.repeat(np.arange(len(qrels)), [len(graded) for graded in qrels.values()])
    qrel_product = np.array([row_of[product] for graded in qrels.values() for product in graded], int)
    qrel_grade = np.array([grade for graded in qrels.values() for grade in graded.values()], float)
    gains_QxK = ranked_gains(qrel_query, qrel_product, qrel_grade, retrieved_QxK)
    table = measure_ranked(gains_QxK, qrel_query, qrel_grade, metrics)
    return table.set_index(pd.Index(list(qrels), name="query_id"))


def ranked_gains(
    qrel_query: np.ndarray, qrel_product: np.ndarray, qrel_grade: np.ndarray, retrieved_QxK: np.ndarray
) -> np.ndarray:
    """Q x K float64: the grade of the product at each rank, 0 where it is unjudged or -1 (no product).

    The qrels are row numbers, as in `RankedData.pairs`; retrieved_QxK holds product rows, best first.
    Raises DataError for a pair judged twice or a judged product retrieved twice: both would count double.
    """
    order = _stable_order(qrel_query).astype(np.int32)  # half the memory traffic
    begin_Q1 = np.searchsorted(qrel_query[order], np.arange(len(retrieved_QxK) + 1))
    products = max(int(qrel_product.max(initial=-1)), int(retrieved_QxK.max(initial=-1))) + 1
    pair_of = np.full(products + 1, -1, np.int32)  # product -> its judged pair with one query; the last one is for -1
    pair_QxK = np.empty(retrieved_QxK.shape, np.int32)
    last, product_of = np.empty_like(order), qrel_product[order]
    for query, (begin, end) in enumerate(pairwise(begin_Q1.tolist())):
        judged = product_of[begin:end]
        pair_of[judged] = order[begin:end]
        pair_of.take(judged, out=last[begin:end], mode="wrap")  # "raise" would buffer
        pair_of.take(retrieved_QxK[query], out=pair_QxK[query], mode="wrap")
        pair_of[judged] = -1
    if len(twice := order[last != order]):
        query, product = qrel_query[twice[0]], qrel_product[twice[0]]
        raise DataError(f"qrels: query row {query}, product row {product} is judged twice; keep one grade a pair")
    judged_cells = np.flatnonzero(pair_QxK >= 0)
    pairs = pair_QxK.ravel()[judged_cells]
    if (times := np.bincount(pairs)).max(initial=0) > 1:
        query, product = qrel_query[times.argmax()], qrel_product[times.argmax()]
        raise DataError(f"run: query row {query} retrieves product row {product} twice; rank every product once")
    gains_QxK = np.zeros(retrieved_QxK.shape)
    gains_QxK.ravel()[judged_cells] = qrel_grade[pairs]
    return gains_QxK


def measure_ranked(
    gains_QxK: np.ndarray, qrel_query: np.ndarray, qrel_grade: np.ndarray, metrics: Sequence[Metric]
) -> pd.DataFrame:
    """The core of `measure`: one row a row of gains_QxK (from `ranked_gains`), one column a metric.

    qrel_query, qrel_grade: row number and grade (finite, >= 0) of every judged pair, retrieved or not, in any order.
    """
    order = np.argsort(-qrel_grade)
    order = order[_stable_order(qrel_query[order])]
    ranked = Ranked(*_relevant(gains_QxK), qrel_query[order], qrel_grade[order])
    values = {str(metric): metric.formula(ranked, metric.cutoff, metric.parameter) for metric in metrics}
    return pd.DataFrame(values, index=range(len(gains_QxK)))


def _order_given(scores: Mapping) -> np.ndarray:
    return np.argsort(-np.array(list(scores.values()), float), kind="stable")


def _order_trec(scores: Mapping) -> np.ndarray:
    by_id = np.array(sorted(range(len(scores)), key=list(map(str, scores)).__getitem__, reverse=True))
    with np.errstate(over="ignore"):
        score = np.array(list(scores.values()), float).astype(np.float32)
    return by_id[np.argsort(-score[by_id], kind="stable")]


_ORDERS = {"given": _order_given, "trec": _order_trec}


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator > 0)


def _stable_order(query: np.ndarray) -> np.ndarray:
    """Pairs by query row; numpy sorts 16-bit numbers (up to 65,536 queries) many times faster."""
    return np.argsort(query.astype(np.min_scalar_type(int(query.max(initial=0)))), kind="stable")


def _relevant(gains_QxK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """gain_QxH and rank_QxH of `Ranked`; H is at least 1."""
    queries, ranks = gains_QxK.shape
    cell_P = np.flatnonzero(gains_QxK > 0)
    query_P = cell_P // max(ranks, 1)
    counts_Q = np.bincount(query_P, minlength=queries)
    place_P = np.arange(len(cell_P)) - np.repeat(np.cumsum(counts_Q) - counts_Q, counts_Q)
    gain_QxH = np.zeros((queries, counts_Q.max(initial=1)))
    rank_QxH = np.full(gain_QxH.shape, np.inf)
    gain_QxH[query_P, place_P] = gains_QxK.ravel()[cell_P]
    rank_QxH[query_P, place_P] = cell_P - query_P * ranks + 1
    return gain_QxH, rank_QxH


def _check(table: Grades, what: str, is_good: Callable[[np.ndarray], np.ndarray], expected: str) -> None:
    for query, values in table.items():
        numbers = pd.to_numeric(pd.Series(list(values.values()), dtype=object), errors="coerce").to_numpy(float)
        bad = ~is_good(numbers)
        if bad.any():
            product, value = list(values.items())[bad.argmax()]
            raise DataError(f"query {query!r}, product {product!r}: {what} is {value!r}; {expected} is expected")


def _check_ids(what: str, judged: Mapping, retrieved: Mapping) -> None:
    """Raise for ids that would match if their types did, as 1 and "1" do."""
    if set(map(type, judged)) == set(map(type, retrieved)) or not judged or not retrieved:
        return
    unmatched = {str(id): id for id in judged if id not in retrieved}
    for id in retrieved:
        if id not in judged and str(id) in unmatched:
            raise UserError(
                f"ids must agree: {what} {id!r} of the run is {unmatched[str(id)]!r} in the qrels, of another type; "
                "convert both to strings"
            )


def _some(ids: Mapping) -> str:
    return ", ".join(repr(query) for query in list(ids)[:3]) + (", ..." if len(ids) > 3 else "") or "empty"
