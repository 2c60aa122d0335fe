"""What the app can do, in pure Python: every input is checked here, whoever sends it.

No gradio; torch only for texts that the bundle has no embedding of, from the first one on.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pandas as pd

from app.answers import LEVELS, TOP, Comparison, Product, Ranking, sentence
from app.state import ORDERS, TABS, State
from gcl_toolkit.bundle import Bundle, Ranker, best_first, field_cosines, fused_cosines
from gcl_toolkit.errors import UserError, unknown
from gcl_toolkit.metrics import measure_ranked, ranked_gains
from gcl_toolkit.statistics import Difference, paired

MAX_QUERY = 200
"""Characters of a text."""
MAX_K = 100
"""Products a list."""
MAX_CHOICES = 1_000
"""Queries offered in the list of stored ones; more are found by typing."""
MAX_ROWS = 500
"""Queries shown in the table; the CSV has all."""
DEPTH = 1000
"""How far down a ranking is measured, as in the bundle."""


class Service:
    """The app's answers about one bundle. Raises UserError for whatever is out of range or unknown."""

    def __init__(self, bundle: Bundle):
        self.bundle = bundle
        self._lock = threading.Lock()
        self._models: dict[str, Any] = {}
        self._cosines = lru_cache(maxsize=64)(self._cosines_now)
        self._embed = lru_cache(maxsize=256)(self._embed_now)

    # -- what there is -------------------------------------------------------------------------------------------------

    @cached_property
    def labels(self) -> dict[str, dict[str, int]]:
        """Split -> label -> query row. The label is the query's text, with its id where a text stands twice."""
        labels: dict[str, dict[str, int]] = {}
        column = next((m["query"] for m in self.bundle.manifest["models"].values() if m["query"]), "query_id")
        for split in self.bundle.splits:
            known = labels.setdefault(split, {})
            rows = self.bundle.queries.iloc[self.bundle.queries_of(split)]
            for row, text, query_id in zip(rows.index, rows[column], rows["query_id"], strict=True):
                label = _told(text, query_id)
                known[f"{label} ({query_id})" if label in known else label] = int(row)
        return labels

    @cached_property
    def bounds(self) -> np.ndarray:
        """The scores at which levels begin, and the last one's end: LEVELS + 1 of them; whole where the scores are."""
        scores = self.bundle.qrels["score"]
        scores = scores[scores > 0]
        bounds = np.linspace(scores.min(), scores.max(), LEVELS + 1) if len(scores) else np.zeros(LEVELS + 1)
        return np.ceil(bounds) if (scores % 1 == 0).all() else bounds

    @property
    def divisions(self) -> list[str]:
        return ["all", *sorted(self.bundle.queries["division"].dropna().unique())]

    def choices(self, split: str) -> list[str]:
        return list(self.labels[self._known("split", split, self.bundle.splits)])[:MAX_CHOICES]

    def blend(self, model: str) -> tuple[str, str, float] | None:
        """The two fields that the slider mixes and the first one's share by default; None unless there are two."""
        fields = self._ranker(model).fields
        if len(fields) != 2:
            return None
        (first, weight), (second, rest) = fields.items()
        return first, second, weight / (weight + rest)

    def state(self, said: Mapping[str, Any] | None = None) -> State:
        """A checked state from what was said (a URL's parameters, values of controls), defaults for the rest."""
        said, models = said or {}, list(self.bundle.models)
        split = self._known(
            "split", said.get("split") or self._first("zero_shot", self.bundle.splits), self.bundle.splits
        )
        a = self._known("model", said.get("a") or self._first("gcl-matrix", models), models)
        others = [m for m in models if m != a] or [a]
        b = self._known("model", said.get("b") or self._first(self.bundle.manifest.get("control"), others), models)
        blend = self.blend(a)
        weight = said.get("weight")
        metrics = [str(metric) for metric in self.bundle.metrics]
        return State(
            tab=self._known("tab", said.get("tab") or TABS[0], TABS),
            split=split,
            query=self._text(said.get("query") or next(iter(self.labels[split]))),
            a=a,
            b=b,
            weight=_share(weight if weight not in (None, "") else blend[2] if blend else 1.0),
            metric=self._known("metric", said.get("metric") or metrics[0], metrics),
            order=self._known("order", said.get("order") or "win", ORDERS),
            division=self._known(
                "division", said.get("division") or self._first("test", self.divisions), self.divisions
            ),
        )

    def image(self, item: int) -> bytes:
        if not 0 <= item < len(self.bundle.items):
            raise UserError(f"there is no product row {item}; 0 to {len(self.bundle.items) - 1} are expected")
        return self.bundle.thumbnail(item)

    # -- the views -----------------------------------------------------------------------------------------------------

    def search(self, split: str, query: str, model: str, weight: float | None = None, k: int = 20) -> Ranking:
        """The first k products of a split for a stored query or any text. weight: share of the first of two fields;
        None: the model's own weights."""
        split, ranker = self._known("split", split, self.bundle.splits), self._ranker(model)
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
            raise UserError(f"k is {k!r}; a whole number from 1 to {MAX_K} is expected")
        weights = [*ranker.fields.values()]
        if weight is not None and len(weights) == 2:
            weights = [_share(weight), 1 - _share(weight)]
        return self._ranking(split, self._text(query), ranker, weights, k, {})

    def compare(self, split: str, query: str, a: str, b: str, k: int = TOP) -> Comparison:
        """Two models with their own weights, and the ideal order, for one query."""
        split, query = self._known("split", split, self.bundle.splits), self._text(query)
        rankers = [self._ranker(name) for name in (a, b)]
        ranks = {r.name: _ranks(self._fused(split, query, r, [*r.fields.values()])) for r in rankers}
        first, second = (self._ranking(split, query, r, [*r.fields.values()], k, ranks) for r in rankers)
        start = self.bundle.items_of(split).start
        items, scores = self._judged(split, query)
        ideal = [
            self._product(item, rank, float("nan"), {}, score, {m: int(r[item - start]) for m, r in ranks.items()})
            for rank, (item, score) in enumerate(zip(items[:k], scores[:k], strict=True), start=1)
        ]
        return Comparison(first, second, ideal, sentence(first, second, ranks, start))

    def queries(self, split: str, a: str, b: str, metric: str, order: str = "win", division: str = "all"):
        """Every query of a split: query, division, a, b (the metric of both models), difference = a - b."""
        rows = self.bundle.queries_of(self._known("split", split, self.bundle.splits))
        names = [str(m) for m in self.bundle.metrics]
        values = [self._ranker(m).metrics[self._known("metric", metric, names)].to_numpy()[rows] for m in (a, b)]
        table = pd.DataFrame({"query": list(self.labels[split]), "a": values[0], "b": values[1]})
        table.insert(1, "query_id", self.bundle.queries["query_id"].to_numpy()[rows])
        table.insert(2, "division", self.bundle.queries["division"].to_numpy()[rows])
        table["difference"] = table["a"] - table["b"]
        if self._known("division", division, self.divisions) != "all":
            table = table[table["division"] == division]
        by, rising = {"win": ("difference", False), "loss": ("difference", True), "worst": ("a", True)}[
            self._known("order", order, ORDERS)
        ]
        return table.sort_values(by, ascending=rising, kind="stable").reset_index(drop=True)

    def difference(self, table: pd.DataFrame, metric: str) -> Difference | None:
        """The paired difference a - b over a table of `queries`, with its interval; None for fewer than two queries."""
        if len(table) < 2:
            return None
        a, b = (pd.Series(table[name].to_numpy(), index=table["query_id"], name=metric) for name in ("a", "b"))
        return paired(a, b, samples=2000)

    # -- ranking -------------------------------------------------------------------------------------------------------

    def _ranking(self, split: str, query: str, ranker: Ranker, weights, k: int, ranks: Mapping) -> Ranking:
        start = self.bundle.items_of(split).start
        cosines_N = self._fused(split, query, ranker, weights)
        order = best_first(cosines_N)[:DEPTH]
        items, scores = self._judged(split, query)
        known = dict(zip(items.tolist(), scores.tolist(), strict=True))
        top = order[:k]
        parts_FxK = self._parts(split, query, ranker, weights, top)
        others = {name: r for name, r in ranks.items() if name != ranker.name}
        products = [
            self._product(
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

    def _product(self, item: int, rank: int, cosine: float, parts, score: float | None, other) -> Product:
        row = self.bundle.items.iloc[item]
        title = _told(row.get(self.bundle.manifest["title"]), row["product_id"])
        return Product(int(item), row["product_id"], title, rank, cosine, parts, score, self.level(score or 0.0), other)

    def level(self, score: float) -> int:
        """0 for no score or 0, else 1..LEVELS."""
        return 0 if score <= 0 else int(np.clip(np.searchsorted(self.bounds, score, side="right"), 1, LEVELS))

    def _judged(self, split: str, query: str) -> tuple[np.ndarray, np.ndarray]:
        row = self.labels[split].get(query)
        return (np.zeros(0, int), np.zeros(0)) if row is None else self.bundle.judged(row)

    def _fused(self, split: str, query: str, ranker: Ranker, weights) -> np.ndarray:
        gram = ranker.gram_NxFxF[self.bundle.items_of(split)]
        return fused_cosines(self._cosines(split, query, ranker.name), gram, weights)

    def _parts(self, split: str, query: str, ranker: Ranker, weights, rows: np.ndarray) -> np.ndarray:
        """What each field adds to the fused cosine of some rows, F x rows: fused with all other cosines set to 0."""
        cosines_FxK = self._cosines(split, query, ranker.name)[:, rows]
        gram_KxFxF = ranker.gram_NxFxF[self.bundle.items_of(split)][rows]
        alone = np.eye(len(cosines_FxK), dtype=np.float32)
        return np.array([fused_cosines(cosines_FxK * one[:, None], gram_KxFxF, weights) for one in alone])

    def _cosines_now(self, split: str, query: str, model: str) -> np.ndarray:
        ranker, row = self._ranker(model), self.labels[split].get(query)
        query_D = ranker.queries_QxD[row] if row is not None else self._embed(query, model)
        return field_cosines(ranker.embeddings_NxD.values(), query_D, self.bundle.items_of(split))

    def _embed_now(self, query: str, model: str) -> np.ndarray:
        folder = self._ranker(model).weights
        if folder is None:
            raise UserError(f"the bundle holds no weights of {model}: choose one of the stored queries")
        with self._lock:
            if model not in self._models:
                from gcl_toolkit.model import GCLModel

                self._models[model] = GCLModel.load(folder).eval()
            loaded = self._models[model]
            if len(loaded.left) != 1:
                raise UserError(
                    f"queries of {model} have {loaded.left}, not one text: choose one of the stored queries"
                )
            import pyarrow as pa

            vocabulary = getattr(loaded.encoder, "vocabulary", None)
            if vocabulary is not None and not loaded.encoder.tokens([query]).any():
                raise UserError(
                    f"{model} knows none of the words in “{query}”; it learnt its words from its training data"
                )
            return loaded.embed(pa.table({next(iter(loaded.left)): [query]}), "left")[0]

    # -- checks --------------------------------------------------------------------------------------------------------

    def _ranker(self, model: str) -> Ranker:
        return self.bundle.models[self._known("model", model, self.bundle.models)]

    def _text(self, query: Any) -> str:
        text = " ".join(str(query).split())
        if not text:
            raise UserError("the query is empty; type some words or choose a stored query")
        if len(text) > MAX_QUERY and not any(text in known for known in self.labels.values()):
            raise UserError(f"the query has {len(text)} characters; at most {MAX_QUERY} are expected")
        return text

    @staticmethod
    def _known(kind: str, name: Any, known) -> str:
        if not isinstance(name, str) or name not in known:
            raise unknown(kind, str(name)[:MAX_QUERY], known)
        return name

    @staticmethod
    def _first(wanted: str | None, known: Sequence[str]) -> str:
        return wanted if wanted is not None and wanted in known else known[0]


# -- helpers -----------------------------------------------------------------------------------------------------------


def _told(text: Any, otherwise: str) -> str:
    """A text in one line; the other where it is missing."""
    return (" ".join(text.split()) if isinstance(text, str) else "") or otherwise


def _share(weight: Any) -> float:
    try:
        share = float(weight)
    except (TypeError, ValueError):
        share = float("nan")
    if not 0 <= share <= 1:
        raise UserError(f"the field weight is {str(weight)[:MAX_QUERY]!r}; a number from 0 to 1 is expected")
    return share


def _dcg(gains: np.ndarray) -> float:
    """sum gain / log2(rank + 1) over the first TOP, as in NDCG@10."""
    top = gains[:TOP]
    return float((top / np.log2(np.arange(2, len(top) + 2))).sum())


def _ranks(cosines_N: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(cosines_N), int)
    ranks[best_first(cosines_N)] = np.arange(1, len(cosines_N) + 1)
    return ranks
