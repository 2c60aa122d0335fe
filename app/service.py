"""What the app can do, in pure Python: every input is checked here (by `limits`), whoever sends it.

No gradio; torch only for texts and pictures that the bundle has no embedding of, from the first one on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from app import limits
from app.answers import TOP, Comparison, Ranking, sentence
from app.rankings import Ask, Rankings
from app.state import COLOURS, LOOKS, ORDERS, PANELS, TABS, State
from gcl_toolkit.bundle import best_first, field_cosines, fused_cosines
from gcl_toolkit.errors import UserError
from gcl_toolkit.statistics import Difference, paired
from gcl_toolkit.weighting import WEIGHTINGS


class Service(Rankings):
    """The app's answers about one bundle. Raises UserError for whatever is out of range or unknown."""

    # -- what there is -------------------------------------------------------------------------------------------------

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
        return self.ranking(split, Ask(self.text(query), _terms(more), _terms(less), image), ranker, weights, k, {})

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
        """The paired difference a - b over a table of `queries`, with its interval; None for fewer than two queries."""
        if len(table) < 2:
            return None
        a, b = (pd.Series(table[name].to_numpy(), index=table["query_id"], name=metric) for name in ("a", "b"))
        return paired(a, b, samples=2000)


# -- helpers -----------------------------------------------------------------------------------------------------------


def _or(said: Any, default: float) -> Any:
    return default if said is None or said == "" else said


def _terms(said: Any) -> str:
    """Terms as they are written in the URL."""
    return ", ".join(f"{term}:{weight:g}" for term, weight in limits.terms(said).items())


def _by_number(name: str) -> tuple:
    """Ranges such as "10-12" after "2-3"; words by themselves."""
    start = name.split("-")[0]
    return (0, int(start), name) if start.isdecimal() else (1, 0, name)
