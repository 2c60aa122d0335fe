"""Known scores of a bundle's pairs, with the judgements made here, and the metrics of its systems by them."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pandas as pd

from gcl_toolkit.app import limits
from gcl_toolkit.app.answers import LEVELS
from gcl_toolkit.data.judgements import Judgement, Judgements
from gcl_toolkit.data.ranked_data import Pairs
from gcl_toolkit.data.runs import grade_scale
from gcl_toolkit.errors import UserError
from gcl_toolkit.measure.metrics import measure_ranked, ranked_gains
from gcl_toolkit.views.bundle import Bundle, System

Local = dict[tuple[int, int], float]
"""(query row, item row) -> score, of the local judgements."""


class Scores:
    """The base of `Rankings`. judgements: those made here; None where none may be made."""

    def __init__(self, bundle: Bundle, judgements: Judgements | None = None):
        self.bundle, self.judgements = bundle, judgements
        self._overlaid = lru_cache(maxsize=2)(self._overlaid_now)
        self._tables: dict[str, tuple[int, Local, pd.DataFrame]] = {}

    def system(self, name: str) -> System:
        return self.bundle.systems[limits.known("system", name, self.bundle.systems)]

    @cached_property
    def bounds(self) -> np.ndarray:
        """LEVELS + 1 scores at which levels begin, and the last one ends; integers if the scores are."""
        scores = self.bundle.qrels["score"]
        scores = scores[scores > 0]
        bounds = np.linspace(scores.min(), scores.max(), LEVELS + 1) if len(scores) else np.zeros(LEVELS + 1)
        return np.ceil(bounds) if (scores % 1 == 0).all() else bounds

    def level(self, score: float) -> int:
        """0 for no score or 0, else 1..LEVELS."""
        return 0 if score <= 0 else int(np.clip(np.searchsorted(self.bounds, score, side="right"), 1, LEVELS))

    # -- judgements ----------------------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """A number that changes with every judgement, 0 without one."""
        return self.judgements.revision if self.judgements else 0

    def grade(self, query: int, item: int, grade: int | None, judge: str, note: str = "") -> Judgement:
        """Append the judgement of a query row and an item row of its split; None withdraws the judge's grade."""
        if self.judgements is None:
            raise UserError("judgements are not kept on this server; start the app on your own machine")
        limits.row("query", query, len(self.bundle.queries))
        split = self.bundle.queries["split"].iat[query]
        if item not in range(*self.bundle.items_of(split).indices(len(self.bundle.items))):
            raise UserError(f"product row {str(item)[:20]} is not in the split {split} of this query")
        ids = self.bundle.queries["query_id"].iat[query], self.bundle.items["product_id"].iat[item]
        return self.judgements.grade(*ids, grade, judge, note)

    def pair(self, query_id: Any, product_id: Any) -> tuple[int, int]:
        """The rows of a query and of a product of its split; of a query in several splits, the first."""
        queries, items = self._places
        found = [(row, items[split].get(product_id)) for row, split in queries.get(query_id, ())]
        for row, item in found:
            if item is not None:
                return row, item
        raise UserError(
            f"there is no query {str(query_id)[:60]!r} with a product {str(product_id)[:60]!r} in this bundle"
        )

    @property
    def qrels(self) -> Pairs:
        """Query row, item row and score of every scored pair, by query and descending score.

        Local judgements take the place of the bundle's scores. A grade is the score where the bundle's scores reach 2
        to 4; else it is a share of the largest one: 4 is 100 in a bundle with scores up to 100.
        """
        return self._overlaid(self.revision)[0]

    def judged_row(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """(item rows, scores) of a query row, best first; equal scores by row."""
        pairs = self.qrels
        low, high = np.searchsorted(pairs.query, [query, query + 1])
        return pairs.product[low:high], pairs.score[low:high]

    def _overlaid_now(self, revision: int) -> tuple[Pairs, Local]:
        if self.judgements is None or not revision:
            return self._given, {}
        local = self._local(self.judgements.grades())
        return self._with(local), local

    def qrels_by(self, judge: str) -> Pairs:
        """As `qrels`, with a language model's grades instead of people's, for pairs that the bundle leaves open."""
        assert self.judgements is not None
        known = set(zip(self._given.query.tolist(), self._given.product.tolist(), strict=True))
        local = self._local(self.judgements.grades(lambda name: name == judge))
        return self._with({pair: score for pair, score in local.items() if pair not in known})

    @property
    def _given(self) -> Pairs:
        return Pairs(*(self.bundle.qrels[name].to_numpy() for name in ("query", "item", "score")))

    def _with(self, local: Local) -> Pairs:
        """The bundle's scores with others in their place, and added to them."""
        pairs = self._given
        if not local:
            return pairs
        (query, item), width = np.array([*local]).T, len(self.bundle.items)
        kept = ~np.isin(pairs.query * width + pairs.product, query * width + item)
        added = (query, item, np.array([*local.values()]))
        columns = [np.concatenate([old[kept], new]) for old, new in zip(pairs, added, strict=True)]
        order = np.lexsort((columns[1], -columns[2], columns[0]))
        return Pairs(*(column[order] for column in columns))

    def _local(self, grades: pd.DataFrame) -> Local:
        """Scores of the judged pairs that are in the bundle; a query may be in several splits."""
        scale = grade_scale(float(self.bundle.qrels["score"].max()))
        queries, items = self._places
        return {
            (query, items[split][product_id]): float(grade * scale)
            for query_id, product_id, grade in grades.itertuples(index=False)
            for query, split in queries.get(query_id, ())
            if product_id in items[split]
        }

    @cached_property
    def _places(self) -> tuple[dict[str, list[tuple[int, str]]], dict[str, dict[str, int]]]:
        """query_id -> its (query row, split)s; split -> product_id -> item row."""
        queries: dict[str, list[tuple[int, str]]] = {}
        for row, (query_id, split) in enumerate(self.bundle.queries[["query_id", "split"]].itertuples(index=False)):
            queries.setdefault(query_id, []).append((row, split))
        spans = {split: self.bundle.items_of(split) for split in self.bundle.splits}
        ids = self.bundle.items["product_id"].tolist()
        return queries, {split: dict(zip(ids[s], range(s.start, s.stop), strict=True)) for split, s in spans.items()}

    # -- metrics -------------------------------------------------------------------------------------------------------

    def metrics(self, name: str) -> pd.DataFrame:
        """Every metric of a system: a row per query row, a column per metric; kept until a judgement changes it."""
        revision, name = self.revision, self.system(name).name
        if name not in self._tables:
            pairs, local = self._overlaid(revision)
            table = self._measured(name, pairs, np.arange(len(self.bundle.queries)))
            self._tables[name] = revision, local, table
        known, before, table = self._tables[name]
        if known != revision:
            pairs, local = self._overlaid(revision)
            rows = np.unique([query for (query, _), _ in local.items() ^ before.items()]).astype(int)
            table = table.copy()
            table.iloc[rows] = self._measured(name, pairs, rows).to_numpy()
            self._tables[name] = revision, local, table
        return table

    def _measured(self, name: str, pairs: Pairs, rows: np.ndarray) -> pd.DataFrame:
        """The metrics of some query rows."""
        query, item, score = pairs_of(pairs, rows)
        gains_QxK = ranked_gains(query, item, score, self.system(name).ranking_QxK[rows])
        return measure_ranked(gains_QxK, query, score, [*self.bundle.metrics])


def pairs_of(pairs: Pairs, rows: np.ndarray) -> Pairs:
    """The pairs of some query rows (ascending), which are then numbered from 0."""
    place = np.searchsorted(rows, pairs.query)
    kept = np.append(rows, -1)[place] == pairs.query
    return Pairs(place[kept], pairs.product[kept], pairs.score[kept])


def one_line(text: Any, default: str) -> str:
    """A text in one line, or the default if it is missing."""
    return (" ".join(text.split()) if isinstance(text, str) else "") or default
