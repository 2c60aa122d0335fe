"""Evaluation: a ranking of a split's corpus -> one row a query, one column a metric; and the comparison of two."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.errors import UserError
from gcl_toolkit.measure.metrics import AP, ERR, NDCG, RBP, RR, Metric, measure_ranked, ranked_gains
from gcl_toolkit.measure.search import top_k
from gcl_toolkit.measure.statistics import Difference, paired
from gcl_toolkit.models.inputs import Inputs
from gcl_toolkit.models.model import GCLModel

METRICS = (NDCG @ 10, ERR, ERR(4), RBP(0.9), AP, RR)
DEPTH = 1000


def evaluate(
    model: GCLModel, data: RankedData, metrics: Sequence[Metric] = METRICS, *, division: str = "all"
) -> pd.DataFrame:
    """Rank the whole corpus of `data` for its queries and measure: a table indexed by query_id.

    division: "dev", "test" or "all" queries.
    """
    ((_, chosen, rows),) = rankings(model, {division: data.only(division)})
    return measure_ranking(rows, chosen, metrics)


def rankings(model: GCLModel, splits: Mapping[str, RankedData]) -> Iterator[tuple[str, RankedData, np.ndarray]]:
    """Each split's name, its data and its ranking (as in `measure_ranking`); equal corpora are embedded once."""
    for split, data, _, rows in retrieved(model, splits):
        yield split, data, rows


def retrieved(
    model: GCLModel, splits: Mapping[str, RankedData], depth: int = DEPTH, inputs: type[Inputs] = Inputs
) -> Iterator[tuple[str, RankedData, np.ndarray, np.ndarray]]:
    """As `rankings`, to any depth, with the scores before the rows. inputs: how queries and products are read."""
    embedded: list[tuple[pa.Table, np.ndarray]] = []
    later = [data.corpus for data in splits.values()]
    for split, data in splits.items():
        later.pop(0)
        products = next((vectors for corpus, vectors in embedded if corpus.equals(data.corpus)), None)
        embedded = [pair for pair in embedded if any(map(pair[0].equals, later))]  # the others' memory is free
        if products is None:
            products = model.embed(data.corpus, "right", inputs=inputs)
            embedded += [(data.corpus, products)] if any(map(data.corpus.equals, later)) else []
        yield split, data, *top_k(model.embed(data.queries, "left", inputs=inputs), products, depth)


@dataclass(frozen=True)
class MeasureDev:
    """A watch for `train`: measures the dev queries of some splits every N steps and after the last.

    Each time costs about as much as embedding the splits' corpora.
    """

    splits: Mapping[str, RankedData]
    every: int
    metric: Metric = NDCG @ 10

    def __post_init__(self):
        if self.every < 1:
            raise UserError(f"evaluate every {self.every} steps: must be at least 1")

    def due(self, step: int, last: int) -> bool:
        return step % self.every == 0 or step == last

    def __call__(self, model: GCLModel) -> dict[str, float]:
        """Means by name, such as {"NDCG@10 zero_shot": 0.45}, of the splits with dev queries."""
        dev = {split: data.only("dev") for split, data in self.splits.items()}
        return {
            f"{self.metric} {split}": float(measure_ranking(rows, data, [self.metric])[str(self.metric)].mean())
            for split, data, rows in rankings(model, {s: data for s, data in dev.items() if data.queries.num_rows})
        }


def measure_ranking(products_QxK: np.ndarray, data: RankedData, metrics: Sequence[Metric] = METRICS) -> pd.DataFrame:
    """Measure rankings (product row numbers, best first, padded with -1; one row a query of `data`)."""
    query, product, grade = data.pairs
    if not len(query):
        raise UserError(
            f"{data.name} has no scored pairs, so nothing can be measured; check the qrels and the division"
        )
    table = measure_ranked(ranked_gains(query, product, grade, products_QxK), query, grade, metrics)
    table.index = pd.Index(data.query_ids, name="query_id")
    return table


def compare(a: pd.DataFrame, b: pd.DataFrame, metric: Metric | str = NDCG @ 10) -> Difference:
    """The paired difference a - b of two tables of `evaluate` in one metric, with its interval; b is the control."""
    name = str(metric)
    for which, table in (("first", a), ("second", b)):
        if name not in table.columns:
            raise UserError(f"the {which} table has no {name}; it has {', '.join(table.columns)}")
    return paired(a[name], b[name])
