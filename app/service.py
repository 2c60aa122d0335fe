"""What the app can do, in pure Python: every input is checked here (by `limits`), whoever sends it.

No gradio; torch only for texts and pictures that the bundle has no embedding of, from the first one on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pandas as pd

from app import limits
from app.answers import LEVELS, TOP, Comparison, Product, Ranking, sentence
from app.encode import Encoders
from app.state import COLOURS, LOOKS, ORDERS, PANELS, TABS, State
from gcl_toolkit.bundle import Bundle, Ranker, best_first, field_cosines, fused_cosines
from gcl_toolkit.errors import UserError
from gcl_toolkit.metrics import measure_ranked, ranked_gains
from gcl_toolkit.statistics import Difference, paired
from gcl_toolkit.weighting import WEIGHTINGS

DEPTH = 1000
"""How far down a ranking is measured, as in the bundle."""


@dataclass(frozen=True)
class Ask:
    """What is searched: a text or the digest of a picture, and what it is moved towards and away from."""

    text: str
    more: str = ""
    less: str = ""
    image: str = ""


class Service:
    """The app's answers about one bundle. Raises UserError for whatever is out of range or unknown."""

    def __init__(self, bundle: Bundle):
        self.bundle = bundle
        self.encoders = Encoders()
        self.version = hashlib.sha256((bundle.folder / "manifest.json").read_bytes()).hexdigest()[:8]
        self._cosines = lru_cache(maxsize=64)(self._cosines_now)

    # -- what there is -------------------------------------------------------------------------------------------------

    @cached_property
    def labels(self) -> dict[str, dict[str, int]]:
        """Split -> label -> query row. The label is the query's text, with its id where a text stands twice."""
        labels: dict[str, dict[str, int]] = {}
        column = next((m["query"] for m in self.bundle.manifest["models"].values() if m["query"]), "query_id")
        for split in self.bundle.splits:
            names = labels.setdefault(split, {})
            rows = self.bundle.queries.iloc[self.bundle.queries_of(split)]
            for row, text, query_id in zip(rows.index, rows[column], rows["query_id"], strict=True):
                label = _told(text, query_id)
                names[f"{label} ({query_id})" if label in names else label] = int(row)
        return labels

    @cached_property
    def bounds(self) -> np.ndarray:
        """The scores at which levels begin, and the last one's end: LEVELS + 1 of them; whole where the scores are."""
        scores = self.bundle.qrels["score"]
        scores = scores[scores > 0]
        bounds = np.linspace(scores.min(), scores.max(), LEVELS + 1) if len(scores) else np.zeros(LEVELS + 1)
        return np.ceil(bounds) if (scores % 1 == 0).all() else bounds

    @cached_property
    def best_score(self) -> float:
        """The largest score, on the scale 1..100 where scores go beyond 100."""
        return float(np.clip(self.bundle.qrels["score"].max(), 1, 100))

    @property
    def divisions(self) -> list[str]:
        return ["all", *sorted(self.bundle.queries["division"].dropna().unique())]

    def slices(self, split: str) -> list[str]:
        """ "all", and "way: name" of every slice that a split has."""
        table = self.bundle.slices.iloc[self.bundle.queries_of(limits.known("split", split, self.bundle.splits))]
        return [
            "all",
            *(f"{way}: {name}" for way in table for name in sorted(table[way].dropna().unique(), key=_by_number)),
        ]

    def label(self, row: Any) -> str:
        """The label of a query row; "" for a row that there isn't."""
        return next((label for names in self.labels.values() for label, r in names.items() if str(r) == str(row)), "")

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.bundle.items["product_id"])}

    def row(self, product_id: Any) -> int:
        """The row of a product by its id."""
        if not isinstance(product_id, str) or product_id not in self._rows:
            raise UserError(f"there is no product {str(product_id)[: limits.MAX_QUERY]!r} in this bundle")
        return self._rows[product_id]

    def choices(self, split: str) -> list[str]:
        return list(self.labels[limits.known("split", split, self.bundle.splits)])[: limits.MAX_CHOICES]

    def blend(self, model: str) -> tuple[str, str, float] | None:
        """The two fields that the slider mixes and the first one's share by default; None unless there are two."""
        fields = self.ranker(model).fields
        if len(fields) != 2:
            return None
        (first, weight), (second, rest) = fields.items()
        return first, second, weight / (weight + rest)

    def state(self, said: Mapping[str, Any] | None = None) -> State:
        """A checked state from what was said (a URL's parameters, values of controls), defaults for the rest."""
        said, models, splits = said or {}, list(self.bundle.models), self.bundle.splits

        def chosen(key: str, names: Sequence[str], default: str | None = None) -> str:
            return limits.known(key, said.get(key) or (default if default in names else names[0]), names)

        split = chosen("split", splits, "zero_shot")
        a = limits.known("model", said.get("a") or ("gcl-matrix" if "gcl-matrix" in models else models[0]), models)
        others = [m for m in models if m != a] or [a]
        control = self.bundle.manifest.get("control")
        b = limits.known("model", said.get("b") or (control if control in others else others[0]), models)
        blend, digest = self.blend(a), said.get("image") or ""
        return State(
            tab=chosen("tab", TABS),
            split=split,
            query=self.text(said.get("query") or next(iter(self.labels[split]))),
            a=a,
            b=b,
            weight=limits.number("field weight", _or(said.get("weight"), blend[2] if blend else 1.0), 0, 1),
            more=_terms(said.get("more")),
            less=_terms(said.get("less")),
            image=digest if not digest or self.encoders.picture(str(digest)) else "",
            item="" if (row := limits.row("product", said.get("item"), len(self.bundle.items))) is None else str(row),
            look=chosen("look", [*LOOKS]),
            metric=chosen("metric", [str(metric) for metric in self.bundle.metrics]),
            order=chosen("order", [*ORDERS]),
            division=chosen("division", self.divisions, "test"),
            slice=chosen("slice", self.slices(split)),
            panels=chosen("panels", [*PANELS]),
            colour=chosen("colour", COLOURS),
            lasso=str(said["lasso"]) if limits.polygon(said.get("lasso")) is not None else "",
            weighting=chosen("weighting", [*WEIGHTINGS], "reciprocal"),
            temperature=limits.number("temperature", _or(said.get("temperature"), 0.05), 0.005, 0.5),
            score=limits.number("score", _or(said.get("score"), self.best_score), 1, 100),
        )

    def image(self, item: int) -> bytes:
        if not 0 <= item < len(self.bundle.items):
            raise UserError(f"there is no product row {item}; 0 to {len(self.bundle.items) - 1} are expected")
        return self.bundle.thumbnail(item)

    # -- the views -----------------------------------------------------------------------------------------------------

    def search(
        self,
        split: str,
        query: str,
        model: str,
        weight: float | None = None,
        k: int = 20,
        *,
        more: str = "",
        less: str = "",
        image: str = "",
    ) -> Ranking:
        """The first k products of a split for a stored query, any text, or an uploaded picture (its digest).

        weight: share of the first of two fields; None: the model's own weights. more, less: terms as in `limits.terms`;
        the query's vector moves by weight times each term's. Scores are those of the stored query, none for a picture.
        """
        split, ranker = limits.known("split", split, self.bundle.splits), self.ranker(model)
        limits.whole("k", k, limits.MAX_K)
        weights = [*ranker.fields.values()]
        if weight is not None:
            share = limits.number("field weight", weight, 0, 1)
            weights = [share, 1 - share] if len(weights) == 2 else weights
        return self._ranking(split, Ask(self.text(query), _terms(more), _terms(less), image), ranker, weights, k, {})

    def neighbours(self, item: int, model: str, k: int = 10) -> Ranking:
        """The k products (of all splits) nearest to a product in the model's own space, by fused embeddings."""
        row = limits.row("product", item, len(self.bundle.items))
        if row is None:
            raise UserError("no product row is given")
        limits.whole("k", k, limits.MAX_K)
        ranker = self.ranker(model)
        fields, weights = ranker.embeddings_NxD, [*ranker.fields.values()]
        own_D = np.sum([w * fields[f][row].astype(np.float32) for f, w in ranker.fields.items()], axis=0)
        own_D /= max(float(np.linalg.norm(own_D)), 1e-9)
        everything = slice(0, len(self.bundle.items))
        cosines_N = fused_cosines(field_cosines(fields.values(), own_D, everything), ranker.gram_NxFxF, weights)
        cosines_N[row] = np.nan
        near = best_first(cosines_N, k)
        products = [self.product(int(n), rank, float(cosines_N[n])) for rank, n in enumerate(near, start=1)]
        return Ranking(model, products, {}, 0.0, 0.0)

    def compare(self, split: str, query: str, a: str, b: str, k: int = TOP) -> Comparison:
        """Two models with their own weights, and the ideal order, for one query."""
        split, ask = limits.known("split", split, self.bundle.splits), Ask(self.text(query))
        limits.whole("k", k, limits.MAX_K)
        rankers = [self.ranker(name) for name in (a, b)]
        ranks = {name: self.ranks(split, query, name) for name in (a, b)}
        first, second = (self._ranking(split, ask, r, [*r.fields.values()], k, ranks) for r in rankers)
        start = self.bundle.items_of(split).start
        items, scores = self.judged(split, ask)
        ideal = [
            self.product(item, rank, float("nan"), {}, score, {m: int(r[item - start]) for m, r in ranks.items()})
            for rank, (item, score) in enumerate(zip(items[:k], scores[:k], strict=True), start=1)
        ]
        return Comparison(first, second, ideal, sentence(first, second, ranks, start))

    def queries(
        self, split: str, a: str, b: str, metric: str, order: str = "win", division: str = "all", slice: str = "all"
    ) -> pd.DataFrame:
        """Every query of a split: query, query_id, division, a, b (the metric of both models), difference = a - b."""
        rows = self.bundle.queries_of(limits.known("split", split, self.bundle.splits))
        limits.known("metric", metric, [str(m) for m in self.bundle.metrics])
        values = [self.ranker(m).metrics[metric].to_numpy()[rows] for m in (a, b)]
        table = pd.DataFrame({"query": list(self.labels[split]), "a": values[0], "b": values[1]})
        table.insert(1, "query_id", self.bundle.queries["query_id"].to_numpy()[rows])
        table.insert(2, "division", self.bundle.queries["division"].to_numpy()[rows])
        table["difference"] = table["a"] - table["b"]
        kept = np.ones(len(table), bool)
        if limits.known("division", division, self.divisions) != "all":
            kept &= (table["division"] == division).to_numpy()
        if limits.known("slice", slice, self.slices(split)) != "all":
            way, _, name = slice.partition(": ")
            kept &= (self.bundle.slices[way].iloc[rows] == name).to_numpy()
        table = table[kept]
        keys = {"win": -table["difference"], "loss": table["difference"], "worst": table["a"]}
        key = keys | {"spread": -table["difference"].abs()}
        return table.loc[key[limits.known("order", order, ORDERS)].sort_values(kind="stable").index].reset_index(
            drop=True
        )

    def difference(self, table: pd.DataFrame, metric: str) -> Difference | None:
        """The paired difference a - b over a table of `queries`, with its interval; None for fewer than two queries."""
        if len(table) < 2:
            return None
        a, b = (pd.Series(table[name].to_numpy(), index=table["query_id"], name=metric) for name in ("a", "b"))
        return paired(a, b, samples=2000)

    def ranks(self, split: str, query: str, model: str) -> np.ndarray:
        """The rank of every product of a split by a model with its own weights: N integers from 1."""
        ranker, split = self.ranker(model), limits.known("split", split, self.bundle.splits)
        return _ranks(self._fused(split, Ask(self.text(query)), ranker, [*ranker.fields.values()]))

    # -- ranking -------------------------------------------------------------------------------------------------------

    def _ranking(self, split: str, ask: Ask, ranker: Ranker, weights, k: int, ranks: Mapping) -> Ranking:
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
        title, level = _told(row.get(self.bundle.manifest["title"]), row["product_id"]), self.level(score or 0.0)
        return Product(int(item), row["product_id"], title, rank, cosine, parts or {}, score, level, other or {})

    def level(self, score: float) -> int:
        """0 for no score or 0, else 1..LEVELS."""
        return 0 if score <= 0 else int(np.clip(np.searchsorted(self.bounds, score, side="right"), 1, LEVELS))

    def judged(self, split: str, ask: Ask) -> tuple[np.ndarray, np.ndarray]:
        """(item rows, scores) that are known, best first; none for a text of one's own and for a picture."""
        row = None if ask.image else self.labels[split].get(ask.text)
        return (np.zeros(0, int), np.zeros(0)) if row is None else self.bundle.judged(row)

    def _fused(self, split: str, ask: Ask, ranker: Ranker, weights) -> np.ndarray:
        gram = ranker.gram_NxFxF[self.bundle.items_of(split)]
        return fused_cosines(self._cosines(split, ask, ranker.name), gram, weights)

    def _parts(self, split: str, ask: Ask, ranker: Ranker, weights, rows: np.ndarray) -> np.ndarray:
        """What each field adds to the fused cosine of some rows, F x rows: fused with all other cosines set to 0."""
        cosines_FxK = self._cosines(split, ask, ranker.name)[:, rows]
        gram_KxFxF = ranker.gram_NxFxF[self.bundle.items_of(split)][rows]
        alone = np.eye(len(cosines_FxK), dtype=np.float32)
        return np.array([fused_cosines(cosines_FxK * one[:, None], gram_KxFxF, weights) for one in alone])

    def _cosines_now(self, split: str, ask: Ask, model: str) -> np.ndarray:
        ranker = self.ranker(model)
        query_D = self.vector(split, ask, ranker)
        return field_cosines(ranker.embeddings_NxD.values(), query_D, self.bundle.items_of(split))

    def vector(self, split: str, ask: Ask, ranker: Ranker) -> np.ndarray:
        """The vector that is searched with, D, L2-normalised."""
        vector_D = self.encoders.image(ask.image, ranker) if ask.image else self._text_vector(split, ask.text, ranker)
        for sign, said in ((1, ask.more), (-1, ask.less)):
            for term, weight in limits.terms(said).items():
                vector_D = vector_D + sign * weight * self._text_vector(split, term, ranker)
        norm = float(np.linalg.norm(vector_D))
        if norm < 1e-6:
            raise UserError("the terms take away all of the query; lower their weights")
        return vector_D / norm

    def _text_vector(self, split: str, text: str, ranker: Ranker) -> np.ndarray:
        row = self.labels[split].get(text)
        return ranker.queries_QxD[row] if row is not None else self.encoders.text(text, ranker)

    # -- checks --------------------------------------------------------------------------------------------------------

    def ranker(self, model: str) -> Ranker:
        return self.bundle.models[limits.known("model", model, self.bundle.models)]

    def text(self, query: Any) -> str:
        """A query in one line; stored ones may be longer than typed ones."""
        line = limits.one_line(query)
        return line if any(line in names for names in self.labels.values()) else limits.short(line)


# -- helpers -----------------------------------------------------------------------------------------------------------


def _told(text: Any, otherwise: str) -> str:
    """A text in one line; the other where it is missing."""
    return (" ".join(text.split()) if isinstance(text, str) else "") or otherwise


def _or(said: Any, default: float) -> Any:
    return default if said is None or said == "" else said


def _terms(said: Any) -> str:
    """Terms as they are written in the URL."""
    return ", ".join(f"{term}:{weight:g}" for term, weight in limits.terms(said).items())


def _by_number(name: str) -> tuple:
    """Ranges such as "10-12" after "2-3"; words by themselves."""
    start = name.split("-")[0]
    return (0, int(start), name) if start.isdecimal() else (1, 0, name)


def _dcg(gains: np.ndarray) -> float:
    """sum gain / log2(rank + 1) over the first TOP, as in NDCG@10."""
    top = gains[:TOP]
    return float((top / np.log2(np.arange(2, len(top) + 2))).sum())


def _ranks(cosines_N: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(cosines_N), int)
    ranks[best_first(cosines_N)] = np.arange(1, len(cosines_N) + 1)
    return ranks
