"""Rankings of a bundle's products: the stored ones, and those of any text by query vectors and cosines."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from gcl_toolkit.app import limits
from gcl_toolkit.app.answers import TOP, Product, Ranking
from gcl_toolkit.app.encode import Encoders
from gcl_toolkit.app.scores import Scores, one_line
from gcl_toolkit.data.judgements import Judgements
from gcl_toolkit.errors import UserError
from gcl_toolkit.measure.metrics import measure_ranked, ranked_gains
from gcl_toolkit.views.bundle import Bundle, System, Vectors, best_first, field_cosines, fused_cosines
from gcl_toolkit.views.bundle.reading import DEPTH


@dataclass(frozen=True)
class Ask:
    """What is searched: a text or the digest of a picture, and the terms to move it towards and away from."""

    text: str
    more: str = ""
    less: str = ""
    image: str = ""


class Rankings(Scores):
    """The base of `Service`. Raises UserError for values that are out of range or unknown."""

    def __init__(self, bundle: Bundle, judgements: Judgements | None = None):
        super().__init__(bundle, judgements)
        self.encoders = Encoders()
        self.version = hashlib.sha256((bundle.folder / "manifest.json").read_bytes()).hexdigest()[:8]
        self._cosines = lru_cache(maxsize=64)(self._cosines_now)

    @cached_property
    def labels(self) -> dict[str, dict[str, int]]:
        """Split -> label -> query row. The label is the query's text, with its id if a text appears twice."""
        labels: dict[str, dict[str, int]] = {}
        for split in self.bundle.splits:
            names = labels.setdefault(split, {})
            rows = self.bundle.queries.iloc[self.bundle.queries_of(split)]
            texts = rows[self.bundle.manifest["query"]]
            for row, text, query_id in zip(rows.index, texts, rows["query_id"], strict=True):
                label = one_line(text, query_id)
                names[f"{label} ({query_id})" if label in names else label] = int(row)
        return labels

    @cached_property
    def searchable(self) -> list[str]:
        """The systems with vectors, which rank any text."""
        return [name for name, system in self.bundle.systems.items() if system.vectors]

    def vectors(self, name: str) -> Vectors:
        """A system's vectors; UserError if it has none."""
        vectors = self.system(name).vectors
        if vectors is None:
            raise UserError(f"{name} has no vectors, only rankings of the stored queries; choose another system")
        return vectors

    def text(self, query: Any) -> str:
        """A query in one line; stored queries may be longer than typed ones."""
        line = limits.one_line(query)
        return line if any(line in names for names in self.labels.values()) else limits.short(line)

    def ranks(self, split: str, query: str, name: str) -> np.ndarray:
        """The rank of every product of a split by a system with its own field weights: N integers from 1, 0 for a
        product below what a system without vectors ranks."""
        system, split = self.system(name), limits.known("split", split, self.bundle.splits)
        ask, span = Ask(self.text(query)), self.bundle.items_of(split)
        listed = self._stored(split, ask, system) - span.start
        ranks_N = np.zeros(span.stop - span.start, int)
        ranks_N[listed] = np.arange(1, len(listed) + 1)
        if system.vectors and len(listed) < len(ranks_N):
            order = best_first(self._fused(split, ask, system, [*system.vectors.fields.values()]))
            ranks_N[order[ranks_N[order] == 0]] = np.arange(len(listed) + 1, len(ranks_N) + 1)
        return ranks_N

    # -- ranking -------------------------------------------------------------------------------------------------------

    def ranking(
        self, split: str, ask: Ask, system: System, weights: Sequence[float] | None, k: int, ranks: Mapping
    ) -> Ranking:
        """The first k products. weights: of the fields, None for the system's own; ranks: of every product by other
        systems, as `ranks` gives them."""
        order, start = self._stored(split, ask, system), self.bundle.items_of(split).start
        fields = [*system.vectors.fields] if system.vectors else []
        own = [*system.vectors.fields.values()] if system.vectors else []
        weights = own if weights is None else weights
        if system.vectors and (not len(order) or weights != own):
            order = best_first(self._fused(split, ask, system, weights), DEPTH) + start
        items, scores = self.judged(split, ask)
        known = dict(zip(items.tolist(), scores.tolist(), strict=True))
        top = order[:k]
        cosines_K = self._fused(split, ask, system, weights)[top - start] if fields else np.full(len(top), np.nan)
        parts_FxK = self._parts(split, ask, system, weights, top - start) if fields else np.zeros((0, len(top)))
        others = {name: ranks_N[top - start].tolist() for name, ranks_N in ranks.items() if name != system.name}
        products = [
            self.product(
                int(item),
                at + 1,
                float(cosines_K[at]),
                dict(zip(fields, parts_FxK[:, at].tolist(), strict=True)),
                known.get(int(item)),
                {name: ranks_K[at] or None for name, ranks_K in others.items()},
            )
            for at, item in enumerate(top)
        ]
        if not known:
            return Ranking(system.name, products, {}, 0.0, 0.0, len(order))
        gains_1xK = ranked_gains(np.zeros(len(items), int), items, scores, order[None])
        values = measure_ranked(gains_1xK, np.zeros(len(items), int), scores, [*self.bundle.metrics]).iloc[0]
        metrics = {metric: float(values[str(metric)]) for metric in self.bundle.metrics}
        return Ranking(system.name, products, metrics, _dcg(gains_1xK[0]), _dcg(scores), len(order))

    def product(
        self, item: int, rank: int, cosine: float, parts=None, score: float | None = None, other=None
    ) -> Product:
        row = self.bundle.items.iloc[item]
        title, level = one_line(row.get(self.bundle.manifest["title"]), row["product_id"]), self.level(score or 0.0)
        return Product(int(item), row["product_id"], title, rank, cosine, parts or {}, score, level, other or {})

    def judged_product(self, query: int, item: int) -> Product:
        """A product with its score for a query row, without a rank."""
        items, scores = self.judged_row(query)
        found = scores[items == item]
        return self.product(item, 0, float("nan"), score=float(found[0]) if len(found) else None)

    def parts(self, split: str, query: str, name: str, items: Sequence[int]) -> list[dict[str, float]]:
        """Each field's share of the cosine of a query with some item rows, by a system with vectors."""
        fields, start = self.vectors(name).fields, self.bundle.items_of(split).start
        parts_FxK = self._parts(split, Ask(query), self.system(name), [*fields.values()], np.array(items) - start)
        return [dict(zip(fields, parts_F, strict=True)) for parts_F in parts_FxK.T.tolist()]

    def judged(self, split: str, ask: Ask) -> tuple[np.ndarray, np.ndarray]:
        """(item rows, scores) that are known, best first; none for typed texts and pictures."""
        row = None if ask.image else self.labels[split].get(ask.text)
        return (np.zeros(0, int), np.zeros(0)) if row is None else self.judged_row(row)

    def _stored(self, split: str, ask: Ask, system: System) -> np.ndarray:
        """The item rows that a system ranks for a stored query, best first; none for anything else."""
        row = self.labels[split].get(ask.text)
        if row is None or ask != Ask(ask.text):
            return np.zeros(0, int)
        items = system.ranking_QxK[row].astype(int)
        return items[items >= 0]

    def _fused(self, split: str, ask: Ask, system: System, weights) -> np.ndarray:
        gram = system.vectors.gram_NxFxF[self.bundle.items_of(split)]
        return fused_cosines(self._cosines(split, ask, system.name), gram, weights)

    def _parts(self, split: str, ask: Ask, system: System, weights, rows: np.ndarray) -> np.ndarray:
        """Each field's share of the fused cosine of some rows, F x rows: fused with all other cosines set to 0."""
        cosines_FxK = self._cosines(split, ask, system.name)[:, rows]
        gram_KxFxF = system.vectors.gram_NxFxF[self.bundle.items_of(split)][rows]
        alone = np.eye(len(cosines_FxK), dtype=np.float32)
        return np.array([fused_cosines(cosines_FxK * one[:, None], gram_KxFxF, weights) for one in alone])

    def _cosines_now(self, split: str, ask: Ask, name: str) -> np.ndarray:
        query_D = self.vector(split, ask, self.system(name))
        return field_cosines(self.vectors(name).embeddings_NxD.values(), query_D, self.bundle.items_of(split))

    def vector(self, split: str, ask: Ask, system: System) -> np.ndarray:
        """The query vector, D, L2-normalised."""
        vector_D = self.encoders.image(ask.image, system) if ask.image else self._text_vector(split, ask.text, system)
        for sign, terms in ((1, ask.more), (-1, ask.less)):
            for term, weight in limits.terms(terms).items():
                vector_D = vector_D + sign * weight * self._text_vector(split, term, system)
        norm = float(np.linalg.norm(vector_D))
        if norm < 1e-6:
            raise UserError("the terms cancel the query; lower their weights")
        return vector_D / norm

    def _text_vector(self, split: str, text: str, system: System) -> np.ndarray:
        row = self.labels[split].get(text)
        return self.vectors(system.name).queries_QxD[row] if row is not None else self.encoders.text(text, system)


# -- helpers -----------------------------------------------------------------------------------------------------------


def _dcg(gains: np.ndarray) -> float:
    """sum gain / log2(rank + 1) over the first TOP, as in NDCG@10."""
    top = gains[:TOP]
    return float((top / np.log2(np.arange(2, len(top) + 2))).sum())
