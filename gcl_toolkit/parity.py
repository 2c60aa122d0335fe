"""A vector store against exact search: what its index loses, and how long a query takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gcl_toolkit.errors import UserError
from gcl_toolkit.index import MilvusIndex
from gcl_toolkit.metrics import NDCG, Grades, measure


@dataclass(frozen=True)
class Parity:
    """An index against exact search, on the same queries, one at a time. NDCG@10 is NaN without qrels."""

    kind: str
    products: int
    queries: int
    recall: float
    """Share of the exact ten that the index has in its ten."""
    ndcg: float
    ndcg_exact: float
    p50: float
    """Milliseconds a query, the median; p99: all but one in a hundred are faster."""
    p99: float

    def __str__(self) -> str:
        return (
            f"{self.kind}, {self.products:,} products: recall@10 {self.recall:.4f}, NDCG@10 {self.ndcg:.4f} (exact "
            f"{self.ndcg_exact:.4f}), {self.p50:.2f} ms median, {self.p99:.2f} ms p99, {self.queries:,} queries"
        )


def parity(
    index: MilvusIndex, queries: Mapping[str, np.ndarray], exact: Mapping[str, Sequence[str]], qrels: Grades
) -> Parity:
    """Compare an index with exact search. queries: id -> vector; exact: id -> product ids, best first; qrels may be
    empty. Products with equal scores have no order, so even FLAT may differ in them.
    """
    if not queries:
        raise UserError("parity: there is no query; give at least one")
    seconds, found = [], {}
    for query, vector_D in queries.items():
        started = time.perf_counter()
        _, ids = index.search(vector_D[None], 10)
        seconds.append(time.perf_counter() - started)
        found[query] = [product for product in ids[0] if product is not None]
    shared = [len(set(found[query]) & set(exact[query][:10])) / len(exact[query][:10]) for query in queries]
    graded = {query: qrels[query] for query in queries if query in qrels}
    p50, p99 = (np.quantile(seconds, [0.5, 0.99]) * 1000).tolist()
    ndcg, ndcg_exact = _ndcg(graded, found), _ndcg(graded, exact)
    return Parity(index.kind, index.size, len(queries), float(np.mean(shared)), ndcg, ndcg_exact, p50, p99)


def _ndcg(qrels: Grades, ranking: Mapping[str, Sequence[str]]) -> float:
    if not qrels:
        return float("nan")
    run = {query: {product: -rank for rank, product in enumerate(ranking[query])} for query in qrels}
    return float(measure(qrels, run, [NDCG @ 10]).mean().iloc[0])
