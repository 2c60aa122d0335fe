"""The service's answers as values, and the difference between two rankings as a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gcl_toolkit.measure.metrics import NDCG, Metric

TOP = 10
"""The ranks that NDCG@10 looks at."""
LEVELS = 4
"""Colours of scores."""


@dataclass(frozen=True)
class Product:
    """rank from 1; cosine NaN without any field of weight > 0; parts: field -> its share of the cosine; score None if
    the product is not in the query's list; level 0..LEVELS, where the score lies among all of the bundle; other: its
    ranks by the other models of a comparison."""

    item: int
    product_id: str
    title: str
    rank: int
    cosine: float
    parts: Mapping[str, float]
    score: float | None
    level: int
    other: Mapping[str, int]


@dataclass(frozen=True)
class Ranking:
    """The first products by one model. metrics: empty without known scores; DCG and ideal DCG at TOP are 0 then."""

    model: str
    products: Sequence[Product]
    metrics: Mapping[Metric, float]
    dcg: float
    ideal_dcg: float


@dataclass(frozen=True)
class Comparison:
    """Two rankings, the ideal one (empty without known scores), and their difference in a sentence."""

    a: Ranking
    b: Ranking
    ideal: Sequence[Product]
    sentence: str


def sentence(a: Ranking, b: Ranking, ranks: Mapping[str, np.ndarray], start: int) -> str:
    """The difference between two rankings in one line."""
    first, second = ({p.item for p in r.products[:TOP]} for r in (a, b))
    shared = f"Their first {TOP} have {len(first & second)} products in common."
    if a.model == b.model:
        return f"{a.model} on both sides; choose another model to compare with."
    if not a.metrics:
        return f"No scores are known for this text, so neither ranking can be called better. {shared}"
    metric = NDCG @ TOP
    gap = a.metrics[metric] - b.metrics[metric]
    if not a.dcg and not b.dcg:
        return f"Neither model ranks a listed product among its first {TOP}. {shared}"
    if abs(gap) < 0.0005:
        return f"Both models reach the same {metric}, {a.metrics[metric]:.3f}. {shared}"
    better, worse = (a, b) if gap > 0 else (b, a)
    weighed = {}
    for product in {p.item: p for p in (*a.products[:TOP], *b.products[:TOP]) if p.score}.values():
        rank, other = (int(ranks[r.model][product.item - start]) for r in (better, worse))
        weighed[product.item] = (product, rank, other, (product.score or 0) * (_discount(rank) - _discount(other)))
    product, rank, other_rank, _ = max(weighed.values(), key=lambda w: w[3])
    return (
        f"{better.model} is better by {abs(gap):.3f} {metric}, mainly because it ranks “{product.title}” "
        f"(score {product.score:g}) at {rank}, {worse.model} at {other_rank}. {shared}"
    )


def _discount(rank: int) -> float:
    return 1 / np.log2(rank + 1) if rank <= TOP else 0.0
