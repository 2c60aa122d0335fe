"""Rankings of a bundle's products: query vectors, cosines, order, metrics and known scores."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from gcl_toolkit.app import limits
from gcl_toolkit.app.answers import LEVELS, TOP, Product, Ranking
from gcl_toolkit.app.encode import Encoders
from gcl_toolkit.errors import UserError
from gcl_toolkit.measure.metrics import measure_ranked, ranked_gains
from gcl_toolkit.views.bundle import Bundle, Ranker, best_first, field_cosines, fused_cosines

DEPTH = 1000
"""Measured ranks, as in the bundle."""


@dataclass(frozen=True)
class Ask:
    """What is searched: a text or the digest of a picture, and the terms to move it towards and away from."""

    text: str
    more: str = ""
    less: str = ""
    image: str = ""


class Rankings:
    """The base of `Service`. Raises UserError for values that are out of range or unknown."""

    def __init__(self, bundle: Bundle):
        self.bundle = bundle
        self.encoders = Encoders()
        self.version = hashlib.sha256((bundle.folder / "manifest.json").read_bytes()).hexdigest()[:8]
        self._cosines = lru_cache(maxsize=64)(self._cosines_now)

    @cached_property
    def labels(self) -> dict[str, dict[str, int]]:
        """Split -> label -> query row. The label is the query's text, with its id if a text appears twice."""
        labels: dict[str, dict[str, int]] = {}
        column = next((m["query"] for m in self.bundle.manifest["models"].values() if m["query"]), "query_id")
        for split in self.bundle.splits:
            names = labels.setdefault(split, {})
            rows = self.bundle.queries.iloc[self.bundle.queries_of(split)]
            for row, text, query_id in zip(rows.index, rows[column], rows["query_id"], strict=True):
                label = one_line(text, query_id)
                names[f"{label} ({query_id})" if label in names else label] = int(row)
        return labels

    @cached_property
    def bounds(self) -> np.ndarray:
        """LEVELS + 1 scores at which levels begin, and the last one ends; integers if the scores are."""
        scores = self.bundle.qrels["score"]
        scores = scores[scores > 0]
        bounds = np.linspace(scores.min(), scores.max(), LEVELS + 1) if len(scores) else np.zeros(LEVELS + 1)
        return np.ceil(bounds) if (scores % 1 == 0).all() else bounds

    def ranker(self, model: str) -> Ranker:
        return self.bundle.models[limits.known("model", model, self.bundle.models)]

    def text(self, query: Any) -> str:
        """A query in one line; stored queries may be longer than typed ones."""
        line = limits.one_line(query)
        return line if any(line in names for names in self.labels.values()) else limits.short(line)

    def ranks(self, split: str, query: str, model: str) -> np.ndarray:
        """The rank of every product of a split by a model with its own field weights: N integers from 1."""
        ranker, split = self.ranker(model), limits.known("split", split, self.bundle.splits)
        return _ranks(self._fused(split, Ask(self.text(query)), ranker, [*ranker.fields.values()]))

    # -- ranking -------------------------------------------------------------------------------------------------------

    def ranking(self, split: str, ask: Ask, ranker: Ranker, weights, k: int, ranks: Mapping) -> Ranking:
        start = self.bundle.items_of(split).start
        cosines_N = self._fused(split, ask, ranker, weights)
        order = best_first(cosines_N, DEPTH)
        items, scores = self.judged(split, ask)
        known = dict(zip(items.tolist(), scores.tolist(), strict=True))
        top = order[:k]
        parts_FxK = self._parts(split, ask, ranker, weights, top)
        others = {name: r for name, r in ranks.items() if name != ranker.name}
        products = [
            self.product(
                int(row) + start,
                rank,
                float(cosines_N[row]),
                {field: float(parts_FxK[f, rank - 1]) for f, field in enumerate(ranker.fields)},
                known.get(int(row) + start),
                {name: int(r[row]) for name, r in others.items()},
            )
            for rank, row in enumerate(top, start=1)
        ]
        if not known:
            return Ranking(ranker.name, products, {}, 0.0, 0.0)
        gains_1xK = ranked_gains(np.zeros(len(items), int), items, scores, (order + start)[None])
        values = measure_ranked(gains_1xK, np.zeros(len(items), int), scores, [*self.bundle.metrics]).iloc[0]
        metrics = {metric: float(values[str(metric)]) for metric in self.bundle.metrics}
        return Ranking(ranker.name, products, metrics, _dcg(gains_1xK[0]), _dcg(scores))

    def product(
        self, item: int, rank: int, cosine: float, parts=None, score: float | None = None, other=None
    ) -> Product:
        row = self.bundle.items.iloc[item]
        title, level = one_line(row.get(self.bundle.manifest["title"]), row["product_id"]), self.level(score or 0.0)
        return Product(int(item), row["product_id"], title, rank, cosine, parts or {}, score, level, other or {})

    def level(self, score: float) -> int:
        """0 for no score or 0, else 1..LEVELS."""
        return 0 if score <= 0 else int(np.clip(np.searchsorted(self.bounds, score, side="right"), 1, LEVELS))

    def judged(self, split: str, ask: Ask) -> tuple[np.ndarray, np.ndarray]:
        """(item rows, scores) that are known, best first; none for typed texts and pictures."""
        row = None if ask.image else self.labels[split].get(ask.text)
        return (np.zeros(0, int), np.zeros(0)) if row is None else self.bundle.judged(row)

    def _fused(self, split: str, ask: Ask, ranker: Ranker, weights) -> np.ndarray:
        gram = ranker.gram_NxFxF[self.bundle.items_of(split)]
        return fused_cosines(self._cosines(split, ask, ranker.name), gram, weights)

    def _parts(self, split: str, ask: Ask, ranker: Ranker, weights, rows: np.ndarray) -> np.ndarray:
        """Each field's share of the fused cosine of some rows, F x rows: fused with all other cosines set to 0."""
        cosines_FxK = self._cosines(split, ask, ranker.name)[:, rows]
        gram_KxFxF = ranker.gram_NxFxF[self.bundle.items_of(split)][rows]
        alone = np.eye(len(cosines_FxK), dtype=np.float32)
        return np.array([fused_cosines(cosines_FxK * one[:, None], gram_KxFxF, weights) for one in alone])

    def _cosines_now(self, split: str, ask: Ask, model: str) -> np.ndarray:
        ranker = self.ranker(model)
        query_D = self.vector(split, ask, ranker)
        return field_cosines(ranker.embeddings_NxD.values(), query_D, self.bundle.items_of(split))

    def vector(self, split: str, ask: Ask, ranker: Ranker) -> np.ndarray:
        """The query vector, D, L2-normalised."""
        vector_D = self.encoders.image(ask.image, ranker) if ask.image else self._text_vector(split, ask.text, ranker)
        for sign, terms in ((1, ask.more), (-1, ask.less)):
            for term, weight in limits.terms(terms).items():
                vector_D = vector_D + sign * weight * self._text_vector(split, term, ranker)
        norm = float(np.linalg.norm(vector_D))
        if norm < 1e-6:
            raise UserError("the terms cancel the query; lower their weights")
        return vector_D / norm

    def _text_vector(self, split: str, text: str, ranker: Ranker) -> np.ndarray:
        row = self.labels[split].get(text)
        return ranker.queries_QxD[row] if row is not None else self.encoders.text(text, ranker)


# -- helpers -----------------------------------------------------------------------------------------------------------


def one_line(text: Any, default: str) -> str:
    """A text in one line, or the default if it is missing."""
    return (" ".join(text.split()) if isinstance(text, str) else "") or default


def _dcg(gains: np.ndarray) -> float:
    """sum gain / log2(rank + 1) over the first TOP, as in NDCG@10."""
    top = gains[:TOP]
    return float((top / np.log2(np.arange(2, len(top) + 2))).sum())


def _ranks(cosines_N: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(cosines_N), int)
    ranks[best_first(cosines_N)] = np.arange(1, len(cosines_N) + 1)
    return ranks
