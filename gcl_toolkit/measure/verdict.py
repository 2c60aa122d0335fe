"""Is one system's ranking better than another's? The paired difference, what is unjudged, the slices that lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from statistics import NormalDist
from typing import Literal

import numpy as np
import pandas as pd

from gcl_toolkit.data.ranked_data import Pairs
from gcl_toolkit.errors import UserError, counted, unknown
from gcl_toolkit.measure import ppi
from gcl_toolkit.measure import unjudged as holes
from gcl_toolkit.measure.metrics import NDCG, Metric, measure_ranked, ranked_gains
from gcl_toolkit.measure.slices import by_slice
from gcl_toolkit.measure.statistics import FEW, Difference, holm, minimal_detectable_effect, paired, short

POWER = 0.8
HOPELESS = 100
"""A comparison that needs more than this many times its queries is not worth planning for."""

SLICES = ["way", "slice", "queries", "a", "b", "difference", "p_corrected", "regressed", "few"]
SAMPLES = 2000
"""Resamples of a slice at least; more where Holm's correction over many slices needs smaller p-values."""


@dataclass(frozen=True, eq=False)
class Lists:
    """What a comparison needs, in row numbers.

    qrel_query, qrel_product, qrel_grade: as `RankedData.pairs`. rankings: system -> Q x K product rows, best first,
    padded with -1. labels: the slices of each query (`measure.slices.slices`), indexed by query_id. unlisted: whether a
    product without a grade is "unjudged" or known to be "irrelevant".
    """

    query_ids: Sequence[str]
    qrel_query: np.ndarray
    qrel_product: np.ndarray
    qrel_grade: np.ndarray
    rankings: Mapping[str, np.ndarray]
    labels: pd.DataFrame | None = None
    unlisted: Literal["unjudged", "irrelevant"] = "unjudged"

    @property
    def qrels(self) -> Pairs:
        return Pairs(self.qrel_query, self.qrel_product, self.qrel_grade)

    def of(self, system: str) -> np.ndarray:
        if system not in self.rankings:
            raise unknown("system", system, self.rankings)
        return self.rankings[system]

    def only(self, rows: np.ndarray) -> Lists:
        """Some queries, by rows or by a mask."""
        rows = np.arange(len(self.query_ids))[rows]
        row_of = np.full(len(self.query_ids), -1)
        row_of[rows] = np.arange(len(rows))
        kept = row_of[self.qrel_query] >= 0
        qrels = Pairs(row_of[self.qrel_query[kept]], self.qrel_product[kept], self.qrel_grade[kept])
        rankings = {name: products_QxK[rows] for name, products_QxK in self.rankings.items()}
        return Lists(np.asarray(self.query_ids)[rows], *qrels, rankings, self.labels, self.unlisted)

    def measured(self, products_QxK: np.ndarray, metric: Metric) -> pd.Series:
        """The metric of a ranking, indexed by query_id."""
        gains_QxK = ranked_gains(*self.qrels, products_QxK)
        values_Q = measure_ranked(gains_QxK, self.qrel_query, self.qrel_grade, [metric])[str(metric)].to_numpy()
        return self.by_query(values_Q, str(metric))

    def by_query(self, values_Q: np.ndarray, name: str) -> pd.Series:
        return pd.Series(values_Q, pd.Index(self.query_ids, name="query_id"), name=name)


@dataclass(frozen=True)
class Verdict:
    """System a against the baseline b.

    outcome: "open" where the interval of the difference includes 0. needed: further judged queries with which the
    observed difference would be significant with a power of 80%; None if it already is, or if that takes more than
    `HOPELESS` times the queries. detectable: the smallest difference that these queries show with that power.
    unjudged: mean unjudged@k of both, at the metric's cut-off, or at 10. bounds: of the difference, with the unjudged
    as worst and as best for a; NaN unless the metric is NDCG with a cut-off. variants: the difference without unjudged
    products, by name. slices: as `by_slice` without its first row, largest loss first, with `regressed` (significantly
    worse after Holm's correction) and `few` (fewer than `FEW` queries). human: where a judge was corrected, the number
    of queries that people judged; `needed` counts further ones, and the variants are the judge alone and people alone.
    """

    a: str
    b: str
    metric: Metric
    difference: Difference
    outcome: Literal["better", "worse", "open"]
    needed: int | None
    detectable: float
    unjudged: dict[str, float] = field(default_factory=dict)
    bounds: tuple[float, float] = (np.nan, np.nan)
    variants: dict[str, Difference] = field(default_factory=dict)
    slices: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=SLICES))
    warnings: list[str] = field(default_factory=list)
    human: int | None = None

    @property
    def sentence(self) -> str:
        d = self.difference
        by_people = "" if self.human is None else f", corrected by {self.human:,} human-judged queries"
        size = f"({d.queries:,} queries{by_people})"
        if self.outcome != "open":
            low, high = sorted((abs(d.low), abs(d.high)))
            by = f"{short(abs(d.difference))} {self.metric} [{short(low)}, {short(high)}]"
            return f"{self.a} is {self.outcome} than {self.b} by {by} {size}"
        by = f"{short(d.difference, '+')} {self.metric} [{short(d.low, '+')}, {short(d.high, '+')}]"
        return f"{self.a} and {self.b} can't be separated: {by} {size}; {self._settled}"

    @property
    def _settled(self) -> str:
        if not self.detectable:
            return "they have the same value on every query"
        if self.needed is None:
            return f"these queries can show differences of {short(self.detectable)} or more"
        kind = "" if self.human is None else "human-"
        return f"about {counted(self.needed, f'more {kind}judged query')} would settle it"


def verdict(
    lists: Lists, a: str, b: str, metric: Metric = NDCG @ 10, *, level: float = 0.95, queries: np.ndarray | None = None
) -> Verdict:
    """Compare system a with the baseline b. queries: rows or a mask of the queries to compare on, by default all.

    Raises UserError for an unknown system, one compared with itself, fewer than two queries, and no judgement at all.
    """
    lists = lists if queries is None else lists.only(queries)
    rankings = _rankings(lists, a, b)
    values = [lists.measured(products_QxK, metric) for products_QxK in rankings.values()]
    difference = paired(*values, level=level)
    detectable = minimal_detectable_effect(values[0] - values[1], power=POWER, level=1 - level)
    outcome, k, unlisted = outcome_of(difference), metric.cutoff or 10, lists.unlisted == "unjudged"
    grades = {name: holes.grades(lists.qrels, products_QxK) for name, products_QxK in rankings.items()}
    found = Verdict(
        a,
        b,
        metric,
        difference,
        outcome,
        needed=_needed(difference, detectable) if outcome == "open" else None,
        detectable=detectable,
        unjudged={name: float(holes.unjudged(grades_QxK, k).mean()) for name, grades_QxK in grades.items()},
        bounds=_bounds(lists, rankings, metric) if unlisted else (difference.difference,) * 2,
        variants=_variants(lists, rankings, grades, metric, level) if unlisted else {},
        slices=_slices(lists, values, metric, 1 - level),
    )
    return replace(found, warnings=_warnings(found, lists, k))


def corrected(
    people: Lists, judge: Lists, a: str, b: str, metric: Metric = NDCG @ 10, *, level: float = 0.95
) -> Verdict:
    """The verdict by a language model's grades, corrected by those of people (measure/ppi.py).

    people, judge: the same queries and rankings with qrels by people, and by the judge (with what was known before
    people began). Queries count whose pooled products the judge graded to the metric's cut-off, or to rank 10. Of
    these, in `ppi.random_order`, the first that people graded in full correct it. Raises UserError for too few.
    """
    k, rankings = metric.cutoff or 10, _rankings(people, a, b)
    lacking = [np.unique(holes.pooled(lists.qrels, list(rankings.values()), k)[0]) for lists in (judge, people)]
    complete = np.setdiff1d(np.arange(len(judge.query_ids)), lacking[0])
    ordered = complete[ppi.random_order(np.asarray(people.query_ids)[complete])]
    read = ordered[np.cumsum(np.isin(ordered, lacking[1])) == 0]
    by_judge, by_people = (
        [lists.measured(products_QxK, metric).iloc[rows] for products_QxK in rankings.values()]
        for lists, rows in ((judge, complete), (people, read))
    )
    difference, estimate = ppi.corrected(by_judge, by_people, level=level)
    outcome = outcome_of(difference)
    z = NormalDist().inv_cdf((1 + level) / 2) + NormalDist().inv_cdf(POWER)
    spare = (difference.difference / z) ** 2 - estimate.judge  # what the variance of the people's part may be
    further = estimate.residual / spare - estimate.human if spare > 0 else np.inf
    warnings = []
    if len(lacking[0]):
        warnings.append(f"{len(lacking[0]):,} of {len(judge.query_ids):,} queries lack grades of the judge: left out")
    if estimate.human < FEW:
        warnings.append(f"with fewer than {FEW} human-judged queries the interval is unreliable")
    return Verdict(
        a,
        b,
        metric,
        difference,
        outcome,
        needed=_rounded(further) if outcome == "open" and further < len(complete) else None,
        detectable=z * (estimate.residual / estimate.human + estimate.judge) ** 0.5,
        variants={"judge alone": paired(*by_judge, level=level), "people alone": paired(*by_people, level=level)},
        warnings=warnings,
        human=estimate.human,
    )


def tied(lists: Lists, metric: Metric = NDCG @ 10, *, level: float = 0.95) -> list[tuple[str, ...]]:
    """Groups of systems that can't be separated from each other, best first by their means.

    Two systems are separated if their p-value is below 1 - level after Holm's correction over all pairs. Groups may
    overlap: the best and the worst may differ where neither differs from one between them.
    """
    values = {name: lists.measured(products_QxK, metric) for name, products_QxK in lists.rankings.items()}
    names = sorted(values, key=lambda name: -values[name].mean())
    pairs = list(combinations(range(len(names)), 2))
    p_values = holm([paired(values[names[i]], values[names[j]]).p_value for i, j in pairs])
    apart = {pair for pair, p_value in zip(pairs, p_values, strict=True) if p_value < 1 - level}
    groups, last = [], -1
    for first in range(len(names)):
        end = first + 1
        while end < len(names) and not any((row, end) in apart for row in range(first, end)):
            end += 1
        if end > last:  # otherwise it is within the group before
            groups.append(tuple(names[first:end]))
            last = end
    return groups


def outcome_of(difference: Difference) -> Literal["better", "worse", "open"]:
    return "better" if difference.low > 0 else "worse" if difference.high < 0 else "open"


def _rankings(lists: Lists, a: str, b: str) -> dict[str, np.ndarray]:
    if a == b:
        raise UserError(f"{a} is compared with itself; choose another system or baseline")
    rankings = {name: lists.of(name) for name in (a, b)}
    if len(lists.query_ids) < 2 or not len(lists.qrel_grade):
        found = f"{len(lists.query_ids)} queries and {len(lists.qrel_grade)} judgements"
        raise UserError(f"{a} against {b}: there are {found}; a verdict needs two queries, and judgements of them")
    return rankings


def _needed(difference: Difference, detectable: float) -> int | None:
    if abs(difference.difference) * HOPELESS**0.5 <= detectable:
        return None
    return _rounded(difference.queries * ((detectable / difference.difference) ** 2 - 1))


def _rounded(queries: float) -> int:
    """Two significant digits: the variance is an estimate."""
    return max(1, int(float(f"{queries:.1e}")))


def _variants(
    lists: Lists, rankings: Mapping[str, np.ndarray], grades: Mapping[str, np.ndarray], metric: Metric, level: float
) -> dict[str, Difference]:
    condensed = (lists.measured(holes.condensed(grades[name], rankings[name]), metric) for name in rankings)
    bpref = (lists.by_query(holes.bpref(grades_QxK, lists.qrels), "bpref") for grades_QxK in grades.values())
    return {"condensed list": paired(*condensed, level=level), "bpref": paired(*bpref, level=level)}


def _bounds(lists: Lists, rankings: Mapping[str, np.ndarray], metric: Metric) -> tuple[float, float]:
    if metric.name != "NDCG" or metric.cutoff is None:
        return np.nan, np.nan
    of_a, of_b = rankings.values()
    low_Q, high_Q = holes.bounds(lists.qrels, of_a, of_b, metric.cutoff)
    return float(low_Q.mean()), float(high_Q.mean())


def _slices(lists: Lists, values: list[pd.Series], metric: Metric, alpha: float) -> pd.DataFrame:
    if lists.labels is None or lists.labels.empty:
        return pd.DataFrame(columns=SLICES)
    a, b = (side.to_frame() for side in values)
    samples = max(SAMPLES, 40 * int(lists.labels.nunique().sum()))
    table = by_slice(a, b, lists.labels, metric, whole=False, samples=samples)
    gaps = np.array([found.difference for found in table["difference"]])
    table = table.assign(regressed=(gaps < 0) & (table["p_corrected"] < alpha), few=table["queries"] < FEW)
    return table.iloc[np.argsort(gaps, kind="stable")].reset_index(drop=True)


def _warnings(found: Verdict, lists: Lists, k: int) -> list[str]:
    warnings, queries = [], len(lists.query_ids)
    low, high = found.bounds
    if low < 0 < high:
        counts = " and ".join(f"{mean:.1f} of {name}" for name, mean in found.unjudged.items())
        warnings.append(
            f"the unjudged products decide: {counts} are unjudged among the first {k}, and their grades could make the "
            f"difference anything from {short(low, '+')} to {short(high, '+')}; grade them first"
        )
    for name, variant in found.variants.items():
        if {found.outcome, outcome_of(variant)} == {"better", "worse"}:
            warnings.append(f"without the unjudged products ({name}) {found.a} is {outcome_of(variant)}: {variant}")
    relevant_Q = np.bincount(lists.qrel_query[lists.qrel_grade > 0], minlength=queries)
    if empty := int((relevant_Q == 0).sum()):
        warnings.append(f"{empty:,} of {queries:,} queries have no product with a grade above 0; they count 0 for both")
    if queries < FEW:
        warnings.append(f"with fewer than {FEW} queries the interval is unreliable")
    return warnings
