"""The service's answers as values, and the difference between two rankings as a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gcl_toolkit.errors import counted
from gcl_toolkit.measure.metrics import NDCG, Metric

TOP = 10
"""The ranks that NDCG@10 looks at."""
LEVELS = 4
"""Colours of scores."""


@dataclass(frozen=True)
class Product:
    """rank from 1; cosine NaN without any field of weight > 0, or without vectors; parts: field -> its share of the
    cosine; score None if the product is not in the query's list; level 0..LEVELS, where the score lies among all of the
    bundle; other: its ranks by the other systems of a comparison, None where it is below what they rank."""

    item: int
    product_id: str
    title: str
    rank: int
    cosine: float
    parts: Mapping[str, float]
    score: float | None
    level: int
    other: Mapping[str, int | None]


@dataclass(frozen=True)
class Ranking:
    """The first products by one system. metrics: empty without known scores; DCG and ideal DCG at TOP are 0 then;
    listed: how many products it ranks for the query, 0 for a text that it doesn't know."""

    model: str
    products: Sequence[Product]
    metrics: Mapping[Metric, float]
    dcg: float
    ideal_dcg: float
    listed: int


@dataclass(frozen=True)
class Comparison:
    """Two to five rankings, the last one by the baseline; the ideal one (empty without known scores); and the
    difference between the first and the last in a sentence."""

    rankings: Sequence[Ranking]
    ideal: Sequence[Product]
    sentence: str

    @property
    def a(self) -> Ranking:
        return self.rankings[0]

    @property
    def b(self) -> Ranking:
        return self.rankings[-1]


def sentence(a: Ranking, b: Ranking, ranks: Mapping[str, np.ndarray], start: int) -> str:
    """The difference between two rankings in one line. ranks: system -> rank of each product from row `start`, 0 where
    it is below what the system ranks."""
    first, second = ({p.item for p in r.products[:TOP]} for r in (a, b))
    if silent := [r.model for r in (a, b) if not r.listed]:
        return f"{silent[0]} ranks no product for this text: it is known by its ranking of the stored queries only."
    shared = f"Their first {TOP} have {counted(len(first & second), 'product')} in common."
    if a.model == b.model:
        return f"{a.model} on both sides; choose another system to compare with."
    if not a.metrics:
        return f"No scores are known for this text, so neither ranking can be called better. {shared}"
    metric = NDCG @ TOP
    gap = a.metrics[metric] - b.metrics[metric]
    if not a.dcg and not b.dcg:
        return f"Neither system ranks a listed product among its first {TOP}. {shared}"
    if abs(gap) < 0.0005:
        return f"Both systems reach the same {metric}, {a.metrics[metric]:.3f}. {shared}"
    better, worse = (a, b) if gap > 0 else (b, a)
    weighed = {}
    for product in {p.item: p for p in (*a.products[:TOP], *b.products[:TOP]) if p.score}.values():
        rank, other = (int(ranks[r.model][product.item - start]) for r in (better, worse))
        weighed[product.item] = (product, rank, other, (product.score or 0) * (_discount(rank) - _discount(other)))
    product, rank, other_rank, _ = max(weighed.values(), key=lambda w: w[3])
    where = f"at {other_rank}" if other_rank else f"not among its {worse.listed}"
    return (
        f"{better.model} is better by {abs(gap):.3f} {metric}, mainly because it ranks “{product.title}” "
        f"(score {product.score:g}) at {rank}, {worse.model} {where}. {shared}"
    )


def _discount(rank: int) -> float:
    return 1 / np.log2(rank + 1) if 1 <= rank <= TOP else 0.0
