"""Evaluation: a ranking of a split's corpus -> one row a query, one column a metric; and the comparison of two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gcl_toolkit.errors import UserError, unknown
from gcl_toolkit.metrics import AP, ERR, NDCG, RBP, RR, Metric, measure_ranked, ranked_gains
from gcl_toolkit.model import GCLModel
from gcl_toolkit.ranked_data import RankedData
from gcl_toolkit.search import top_k
from gcl_toolkit.statistics import Difference, paired
from gcl_toolkit.weighting import rescale

METRICS = (NDCG @ 10, ERR, ERR(4), RBP(0.9), AP, RR)
DEPTH = 1000


def evaluate(
    model: GCLModel,
    data: RankedData,
    metrics: Sequence[Metric] = METRICS,
    *,
    division: str = "all",
    form: str = "complete",
) -> pd.DataFrame:
    """Rank the whole corpus of `data` for its queries and measure: a table indexed by query_id.

    division: "dev", "test" or "all" queries. form: see `measure_ranking`.
    """
    chosen = data.only(division)
    queries, corpus = model.embed(chosen.queries, "left"), model.embed(chosen.corpus, "right")
    return measure_ranking(top_k(queries, corpus, DEPTH)[1], chosen, metrics, form=form)


def rankings(model: GCLModel, splits: Mapping[str, RankedData]) -> Iterator[tuple[str, RankedData, np.ndarray]]:
    """Each split's name, its data and its ranking (as in `measure_ranking`); a shared corpus is embedded once."""
    embedded: dict[int, np.ndarray] = {}
    for split, data in splits.items():
        if id(data.corpus) not in embedded:
            embedded[id(data.corpus)] = model.embed(data.corpus, "right")
        yield split, data, top_k(model.embed(data.queries, "left"), embedded[id(data.corpus)], DEPTH)[1]


@dataclass(frozen=True)
class Watch:
    """What to measure while a model is trained: the dev queries of some splits, every so many steps and at the last.

    Each time costs about what embedding the splits' corpora does.
    """

    splits: Mapping[str, RankedData]
    every: int
    metric: Metric = NDCG @ 10

    def __post_init__(self):
        if self.every < 1:
            raise UserError(f"evaluate every {self.every} steps: at least 1 is expected")

    def due(self, step: int, last: int) -> bool:
        return step % self.every == 0 or step == last

    def __call__(self, model: GCLModel) -> dict[str, float]:
        """Means by name, such as {"NDCG@10 zero_shot": 0.45}; of the splits that have dev queries."""
        dev = {split: data.only("dev") for split, data in self.splits.items()}
        asked = {split: data for split, data in dev.items() if data.queries.num_rows}
        return {
            f"{self.metric} {split}": float(measure_ranking(rows, data, [self.metric])[str(self.metric)].mean())
            for split, data, rows in rankings(model, asked)
        }


def measure_ranking(
    products_QxK: np.ndarray, data: RankedData, metrics: Sequence[Metric] = METRICS, *, form: str = "complete"
) -> pd.DataFrame:
    """Measure rankings (product row numbers, best first, -1 for none; one row a query of `data`).

    form "complete": every query once, grades as they are. "official": as the evaluation script of marqo-ai/GCL does,
    grades rescaled to whole numbers 1..100 over the split and up to 2,000 queries drawn in proportion to the sum of
    their grades.
    """
    if form not in ("complete", "official"):
        raise unknown("form of evaluation", form, ("complete", "official"))
    query, product, grade = data.pairs
    if not len(query):
        raise UserError(
            f"{data.name}: there is no scored pair, so nothing to measure; check the qrels and the division"
        )
    if form == "official":
        grade = rescale(grade) if len(np.unique(grade)) > 1 else np.ones_like(grade)
    gains_QxK = ranked_gains(query, product, grade, products_QxK)
    table = measure_ranked(gains_QxK, query, grade, metrics)
    table.index = pd.Index(data.query_ids, name="query_id")
    return table.iloc[_official_sample(data, grade)] if form == "official" else table


def _official_sample(data: RankedData, grade: np.ndarray, count: int = 2000) -> np.ndarray:
    """Rows of the official script's sample: its key, its order (by key), its draw (pandas', with random_state 1)."""
    fields = [data.queries[name].to_pylist() for name in data.query_fields]
    key = ["".join(f"{value}_{{!@#~}}_" for value in values) for values in zip(*fields, strict=True)]
    sums = pd.Series(grade).groupby(np.array(key)[data.pairs.query]).sum()
    chances = (sums / sums.sum()).to_numpy()
    chosen = np.random.RandomState(1).choice(len(sums), min(count, len(sums)), replace=False, p=chances)
    drawn = sums.iloc[chosen]
    row_of = {text: row for row, text in enumerate(key)}
    return np.array([row_of[text] for text in drawn.sort_values(ascending=False).index])


def compare(a: pd.DataFrame, b: pd.DataFrame, metric: Metric | str = NDCG @ 10) -> Difference:
    """The paired difference a - b of two tables of `evaluate` in one metric, with its interval; b is the control."""
    name = str(metric)
    for which, table in (("first", a), ("second", b)):
        if name not in table.columns:
            raise UserError(f"the {which} table has no {name}; it has {', '.join(table.columns)}")
    return paired(a[name], b[name])
