"""A vector store against exact search: what its index loses, and how long a query takes."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gcl_toolkit.data.formats import qrels_of
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.errors import UserError
from gcl_toolkit.measure.metrics import NDCG, Grades, measure
from gcl_toolkit.measure.search import top_k
from gcl_toolkit.models.model import GCLModel
from gcl_toolkit.serving.index import MilvusIndex


@dataclass(frozen=True)
class Parity:
    """An index against exact search on the same queries, one at a time. NDCG@10 is NaN without qrels."""

    kind: str
    products: int
    queries: int
    recall: float
    """Share of the exact top 10 that the index returns in its top 10."""
    ndcg: float
    ndcg_exact: float
    p50: float
    """Milliseconds per query, median."""
    p99: float

    def __str__(self) -> str:
        return (
            f"{self.kind}, {self.products:,} products: recall@10 {self.recall:.4f}, NDCG@10 {self.ndcg:.4f} (exact "
            f"{self.ndcg_exact:.4f}), {self.p50:.2f} ms median, {self.p99:.2f} ms p99, {self.queries:,} queries"
        )


def build_and_compare(
    place: str | Path, model: GCLModel, data: RankedData, products: np.ndarray, *, sample: int = 200, **store: Any
) -> Parity:
    """Write the embedded `products` of `data` to a store (`MilvusIndex.build`'s options) and compare it with exact
    search on a sample of the queries."""
    part = data.sample_queries(sample)
    queries, ids = model.embed(part.queries, "left"), part.query_ids
    exact = data.product_ids[top_k(queries, products, 10)[1]]
    with MilvusIndex.build(place, products, data.corpus, **store) as index:
        vectors, best = dict(zip(ids, queries, strict=True)), dict(zip(ids, exact, strict=True))
        return parity(index, vectors, best, qrels_of(part))


def parity(
    index: MilvusIndex, queries: Mapping[str, np.ndarray], exact: Mapping[str, Sequence[str]], qrels: Grades
) -> Parity:
    """Compare an index with exact search. queries: id -> vector; exact: id -> product ids, best first; qrels may be
    empty. Products with equal scores have no defined order, so even FLAT may differ in them.
    """
    if not queries:
        raise UserError("parity has no queries; give at least one")
    seconds, ranked = [], {}
    for query, vector_D in queries.items():
        started = time.perf_counter()
        _, ids = index.search(vector_D[None], 10)
        seconds.append(time.perf_counter() - started)
        ranked[query] = [product for product in ids[0] if product is not None]
    shared = [len({*ranked[query]} & {*exact[query][:10]}) / len(exact[query][:10]) for query in queries]
    p50, p99 = (np.quantile(seconds, [0.5, 0.99]) * 1000).tolist()
    graded = {query: qrels[query] for query in queries if query in qrels}
    ndcg, ndcg_exact = _ndcg(graded, ranked), _ndcg(graded, exact)
    return Parity(index.kind, index.size, len(queries), float(np.mean(shared)), ndcg, ndcg_exact, p50, p99)


def _ndcg(qrels: Grades, ranking: Mapping[str, Sequence[str]]) -> float:
    if not qrels:
        return float("nan")
    run = {query: {product: -rank for rank, product in enumerate(ranking[query])} for query in qrels}
    return float(measure(qrels, run, [NDCG @ 10]).mean().iloc[0])
