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
from gcl_toolkit.app.scores import pairs_of
from gcl_toolkit.app.state import COLOURS, LOOKS, MAX_ALSO, ORDERS, PANELS, TABS, State
from gcl_toolkit.data.weighting import WEIGHTINGS
from gcl_toolkit.errors import UserError
from gcl_toolkit.measure.unjudged import pooled
from gcl_toolkit.measure.verdict import Lists
from gcl_toolkit.views.bundle import best_first, field_cosines, fused_cosines


class Service(Rankings):
    """The app's answers about one bundle. Raises UserError for values that are out of range or unknown."""

    # -- facts --------------------------------------------------------------------------------------------------------

    @cached_property
    def best_score(self) -> float:
        """The largest score, at most 100."""
        return float(np.clip(self.bundle.qrels["score"].max(), 1, 100))

    @cached_property
    def has_pictures(self) -> bool:
        return bool(self.bundle.items["thumbnail_size"].any())

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
        vectors = self.system(model).vectors
        fields = vectors.fields if vectors else {}
        if len(fields) != 2:
            return None
        (first, weight), (second, rest) = fields.items()
        return first, second, weight / (weight + rest)

    def state(self, options: Mapping[str, Any] | None = None) -> State:
        """A checked state from options (a URL's parameters, values of controls), with defaults for the rest."""
        options, systems, splits = options or {}, list(self.bundle.systems), self.bundle.splits

        def chosen(key: str, names: Sequence[str], default: str | None = None) -> str:
            return limits.known(key, options.get(key) or (default if default in names else names[0]), names)

        split = chosen("split", splits, "zero_shot")
        first, control = self.bundle.pair
        a = limits.known("system", options.get("a") or first, systems)
        others = [control, *systems] if a != control else [name for name in (first, *systems) if name != a] or [a]
        b = limits.known("system", options.get("b") or others[0], systems)
        opening = self.bundle.manifest["opening"].get(split, {}).get("win") if (a, b) == self.bundle.pair else None
        blend, digest = self.blend(a), options.get("image") or ""
        return State(
            tab=chosen("tab", list(TABS)),
            split=split,
            query=self.text(options.get("query") or self.label(opening) or next(iter(self.labels[split]))),
            a=a,
            b=b,
            weight=limits.number("field weight", _or(options.get("weight"), blend[2] if blend else 1.0), 0, 1),
            more=_terms(options.get("more")),
            less=_terms(options.get("less")),
            image=digest if not digest or self.encoders.picture(str(digest)) else "",
            item=_row(limits.row("product", options.get("item"), len(self.bundle.items))),
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
            also=self._also(options.get("also"), a, b),
            find=self.text(options["find"]) if options.get("find") else "",
            score=limits.number("score", _or(options.get("score"), self.best_score), 1, 100),
        )

    def _also(self, names: Any, a: str, b: str) -> str:
        chosen = [n.strip() for n in str(names or "").split(",") if n.strip() not in ("", a, b)]
        kept = list(dict.fromkeys(limits.known("system", name, self.bundle.systems) for name in chosen))
        if len(kept) > MAX_ALSO:
            raise UserError(f"{len(kept)} further systems are given; at most {MAX_ALSO} are compared with A and B")
        return ",".join(kept)

    def systems_of(self, state: State) -> list[str]:
        """The systems of a state: A, the further ones, B."""
        return [state.a, *(name for name in state.also.split(",") if name), state.b]

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
        split, vectors = limits.known("split", split, self.bundle.splits), self.vectors(model)
        limits.integer("k", k, limits.MAX_K)
        weights = None
        if weight is not None:
            share = limits.number("field weight", weight, 0, 1)
            weights = [share, 1 - share] if len(vectors.fields) == 2 else None
        ask = Ask(self.text(query), _terms(more), _terms(less), image)
        return self.ranking(split, ask, self.system(model), weights, k, {})

    def neighbours(self, item: int, model: str, k: int = 10) -> Ranking:
        """The k products (of all splits) nearest to a product in the model's embedding space."""
        row = limits.row("product", item, len(self.bundle.items))
        if row is None:
            raise UserError("the product row is missing")
        limits.integer("k", k, limits.MAX_K)
        vectors = self.vectors(model)
        fields, weights = vectors.embeddings_NxD, [*vectors.fields.values()]
        own_D = np.sum([w * fields[f][row].astype(np.float32) for f, w in vectors.fields.items()], axis=0)
        own_D /= max(float(np.linalg.norm(own_D)), 1e-9)
        everything = slice(0, len(self.bundle.items))
        cosines_N = fused_cosines(field_cosines(fields.values(), own_D, everything), vectors.gram_NxFxF, weights)
        cosines_N[row] = np.nan
        near = best_first(cosines_N, k)
        products = [self.product(int(n), rank, float(cosines_N[n])) for rank, n in enumerate(near, start=1)]
        return Ranking(model, products, {}, 0.0, 0.0, len(cosines_N) - 1)

    def compare(self, split: str, query: str, *names: str, k: int = TOP) -> Comparison:
        """Two to five systems with their own weights, the baseline last, and the ideal order, for one query."""
        split, ask = limits.known("split", split, self.bundle.splits), Ask(self.text(query))
        limits.integer("k", k, limits.MAX_K)
        if not 2 <= len(names) <= MAX_ALSO + 2:
            raise UserError(f"{len(names)} systems are given; 2 to {MAX_ALSO + 2} are expected")
        systems = [self.system(name) for name in names]
        ranks = {name: self.ranks(split, query, name) for name in names}
        shown = [self.ranking(split, ask, system, None, k, ranks) for system in systems]
        start = self.bundle.items_of(split).start
        items, scores = self.judged(split, ask)
        ideal = [
            self.product(
                int(item), rank, float("nan"), {}, score, {m: int(r[item - start]) or None for m, r in ranks.items()}
            )
            for rank, (item, score) in enumerate(zip(items[:k], scores[:k].tolist(), strict=True), start=1)
        ]
        return Comparison(shown, ideal, sentence(shown[0], shown[-1], ranks, start))

    def queries(self, state: State) -> pd.DataFrame:
        """The chosen queries in the chosen order, as `queries_of`."""
        table = self.queries_of(state)
        gap = table["difference"]
        keys = {"win": -gap, "loss": gap, "worst": table["a"], "spread": -gap.abs()}
        keys |= {name: table[name] for name in ("a", "b", "difference", "unjudged")}
        keys["query"] = table["query"].map(str.lower)
        name = limits.known("order", state.order, ORDERS)
        order = keys[name.lstrip("-")].sort_values(ascending=name[0] != "-", kind="stable").index
        return table.loc[order].reset_index(drop=True)

    def queries_of(self, state: State) -> pd.DataFrame:
        """The queries of a split, division and slice: query (its label), query_id, division; the metric of each system:
        a, b, and c, d, e of the further ones; difference (a - b); unjudged, the number of products without a score
        among the first ten of all these systems; row."""
        rows = self.rows(state.split, state.division, state.slice)
        limits.known("metric", state.metric, [str(m) for m in self.bundle.metrics])
        table = self.bundle.queries.iloc[rows][["query_id", "division"]].reset_index(drop=True)
        labels = {row: label for label, row in self.labels[state.split].items()}
        table.insert(0, "query", [labels[row] for row in rows])
        a, *also, b = self.systems_of(state)
        for letter, name in zip("abcde", (a, b, *also), strict=False):
            table[letter] = self.metrics(name)[state.metric].to_numpy()[rows]
        table["difference"] = table["a"] - table["b"]
        rankings = [self.system(name).ranking_QxK[rows, :TOP] for name in (a, b, *also)]
        query, _ = pooled(pairs_of(self.qrels, rows), rankings, TOP)
        return table.assign(unjudged=np.bincount(query, minlength=len(rows)), row=rows)

    def rows(self, split: str, division: str = "all", slice: str = "all") -> np.ndarray:
        """The query rows of a split, a division and a slice, ascending."""
        rows = self.bundle.queries_of(limits.known("split", split, self.bundle.splits))
        kept = np.ones(rows.stop - rows.start, bool)
        if limits.known("division", division, self.divisions) != "all":
            kept &= (self.bundle.queries["division"].iloc[rows] == division).to_numpy()
        if limits.known("slice", slice, self.slices(split)) != "all":
            way, _, name = slice.partition(": ")
            kept &= (self.bundle.slices[way].iloc[rows] == name).to_numpy()
        return np.flatnonzero(kept) + rows.start

    def lists(
        self, split: str, names: Sequence[str], division: str = "all", slice: str = "all", judge: str = ""
    ) -> Lists:
        """What a verdict on some systems over the chosen queries needs; judge: by a language model's grades."""
        rows = self.rows(split, division, slice)
        ids = self.bundle.queries["query_id"].iloc[rows]
        rankings = {name: self.system(name).ranking_QxK[rows] for name in names}
        labels = self.bundle.slices.iloc[rows].set_index(pd.Index(ids, name="query_id"))
        qrels = self.qrels_by(judge) if judge else self.qrels
        return Lists([*ids], *pairs_of(qrels, rows), rankings, labels, self.bundle.manifest["unlisted"])


# -- helpers -----------------------------------------------------------------------------------------------------------


def _or(value: Any, default: float) -> Any:
    return default if value is None or value == "" else value


def _row(row: int | None) -> str:
    return "" if row is None else str(row)


def _terms(text: Any) -> str:
    """Terms as they are written in the URL."""
    return ", ".join(f"{term}:{weight:g}" for term, weight in limits.terms(text).items())


def _by_number(name: str) -> tuple:
    """A sort key: ranges such as "10-12" by number, then words."""
    start = name.split("-")[0]
    return (0, int(start), name) if start.isdecimal() else (1, 0, name)
