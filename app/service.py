"""What the app can do, in pure Python; every input from users is checked here (by `limits`).

No gradio; torch is imported for the first text or picture that is not in the bundle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from gcl_toolkit.app import limits
from gcl_toolkit.app.answers import TOP, Comparison, Ranking, sentence
from gcl_toolkit.app.rankings import Ask, Rankings
from gcl_toolkit.app.state import COLOURS, LOOKS, ORDERS, PANELS, TABS, State
from gcl_toolkit.data.weighting import WEIGHTINGS
from gcl_toolkit.errors import UserError
from gcl_toolkit.measure.statistics import Difference, paired
from gcl_toolkit.views.bundle import best_first, field_cosines, fused_cosines

DEFAULT_MODELS = ("graded", "gcl-matrix")
"""Shown first where the bundle has one: the default method, by its name now and in version 0.1."""


class Service(Rankings):
    """The app's answers about one bundle. Raises UserError for values that are out of range or unknown."""

    # -- facts --------------------------------------------------------------------------------------------------------

    @cached_property
    def best_score(self) -> float:
        """The largest score, at most 100."""
        return float(np.clip(self.bundle.qrels["score"].max(), 1, 100))

    @property
    def divisions(self) -> list[str]:
        return ["all", *sorted(self.bundle.queries["division"].dropna().unique())]

    def slices(self, split: str) -> list[str]:
        """ "all", and "way: name" for every slice of a split."""
        table = self.bundle.slices.iloc[self.bundle.queries_of(limits.known("split", split, self.bundle.splits))]
        return [
            "all",
            *(f"{way}: {name}" for way in table for name in sorted(table[way].dropna().unique(), key=_by_number)),
        ]

    def label(self, row: Any) -> str:
        """The label of a query row; "" for an unknown row."""
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
        """The two fields that the slider mixes and the first one's default share; None unless there are two."""
        fields = self.ranker(model).fields
        if len(fields) != 2:
            return None
        (first, weight), (second, rest) = fields.items()
        return first, second, weight / (weight + rest)

    def state(self, options: Mapping[str, Any] | None = None) -> State:
        """A checked state from options (a URL's parameters, values of controls), with defaults for the rest."""
        options, models, splits = options or {}, list(self.bundle.models), self.bundle.splits

        def chosen(key: str, names: Sequence[str], default: str | None = None) -> str:
            return limits.known(key, options.get(key) or (default if default in names else names[0]), names)

        split = chosen("split", splits, "zero_shot")
        a = limits.known(
            "model", options.get("a") or next((m for m in DEFAULT_MODELS if m in models), models[0]), models
        )
        others = [m for m in models if m != a] or [a]
        control = self.bundle.manifest.get("control")
        b = limits.known("model", options.get("b") or (control if control in others else others[0]), models)
        blend, digest = self.blend(a), options.get("image") or ""
        return State(
            tab=chosen("tab", list(TABS)),
            split=split,
            query=self.text(options.get("query") or next(iter(self.labels[split]))),
            a=a,
            b=b,
            weight=limits.number("field weight", _or(options.get("weight"), blend[2] if blend else 1.0), 0, 1),
            more=_terms(options.get("more")),
            less=_terms(options.get("less")),
            image=digest if not digest or self.encoders.picture(str(digest)) else "",
            item=""
            if (row := limits.row("product", options.get("item"), len(self.bundle.items))) is None
            else str(row),
            look=chosen("look", [*LOOKS]),
            metric=chosen("metric", [str(metric) for metric in self.bundle.metrics]),
            order=chosen("order", [*ORDERS]),
            division=chosen("division", self.divisions, "test"),
            slice=chosen("slice", self.slices(split)),
            panels=chosen("panels", [*PANELS]),
            colour=chosen("colour", COLOURS),
            lasso=str(options["lasso"]) if limits.polygon(options.get("lasso")) is not None else "",
            weighting=chosen("weighting", [*WEIGHTINGS], "reciprocal"),
            temperature=limits.number("temperature", _or(options.get("temperature"), 0.05), 0.005, 0.5),
            score=limits.number("score", _or(options.get("score"), self.best_score), 1, 100),
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
        weight times each term's vector is added to or subtracted from the query's. Scores are those of the stored
        query; pictures have none.
        """
        split, ranker = limits.known("split", split, self.bundle.splits), self.ranker(model)
        limits.integer("k", k, limits.MAX_K)
        weights = [*ranker.fields.values()]
        if weight is not None:
            share = limits.number("field weight", weight, 0, 1)
            weights = [share, 1 - share] if len(weights) == 2 else weights
        return self.ranking(split, Ask(self.text(query), _terms(more), _terms(less), image), ranker, weights, k, {})

    def neighbours(self, item: int, model: str, k: int = 10) -> Ranking:
        """The k products (of all splits) nearest to a product in the model's embedding space."""
        row = limits.row("product", item, len(self.bundle.items))
        if row is None:
            raise UserError("the product row is missing")
        limits.integer("k", k, limits.MAX_K)
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
        limits.integer("k", k, limits.MAX_K)
        rankers = [self.ranker(name) for name in (a, b)]
        ranks = {name: self.ranks(split, query, name) for name in (a, b)}
        first, second = (self.ranking(split, ask, r, [*r.fields.values()], k, ranks) for r in rankers)
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
        """The paired difference a - b over a table of `queries`, with its interval; None below two queries."""
        if len(table) < 2:
            return None
        a, b = (pd.Series(table[name].to_numpy(), index=table["query_id"], name=metric) for name in ("a", "b"))
        return paired(a, b, samples=2000)


# -- helpers -----------------------------------------------------------------------------------------------------------


def _or(value: Any, default: float) -> Any:
    return default if value is None or value == "" else value


def _terms(text: Any) -> str:
    """Terms as they are written in the URL."""
    return ", ".join(f"{term}:{weight:g}" for term, weight in limits.terms(text).items())


def _by_number(name: str) -> tuple:
    """A sort key: ranges such as "10-12" by number, then words."""
    start = name.split("-")[0]
    return (0, int(start), name) if start.isdecimal() else (1, 0, name)
