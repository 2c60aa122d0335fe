"""Where two methods differ: comparisons on slices of the queries, with intervals and corrected p-values."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.errors import UserError, unknown
from gcl_toolkit.measure.metrics import NDCG, Metric
from gcl_toolkit.measure.statistics import holm, interval, minimal_detectable_effect, paired, short

LEAST = 10
"""Categories with fewer queries are merged into "other"."""


def slices(data: RankedData, category: str | None = None) -> pd.DataFrame:
    """The slices of each query: one column a way of slicing, indexed by query_id.

    score sum: head or tail; the head is the smallest set of queries with half of all scores' sum (with all that tie).
    judged:   the number of scored products, in three ranges with about equally many queries.
    words:    the number of words of the query's text, likewise.
    category: the most frequent `category` (a corpus column; of a path "A > B" its first part) of the best products.
    A column with a single slice is left out.
    """
    query, product, score = data.pairs
    rows = data.queries.num_rows
    mass_Q = np.bincount(query, weights=score, minlength=rows)
    labels: dict[str, Sequence[str]] = {
        "score sum": _head_or_tail(mass_Q),
        "judged": _ranges(np.bincount(query, minlength=rows)),
    }
    if "query" in data.query_fields:
        labels["words"] = _ranges(np.array([len((text or "").split()) for text in data.queries["query"].to_pylist()]))
    if category is not None:
        if category not in data.corpus_fields:
            known = ", ".join(data.corpus_fields) or "only ids; give a table of products"
            raise UserError(f"the corpus has no column {category!r}; it has {known}")
        best_Q = np.zeros(rows)
        np.maximum.at(best_Q, query, score)
        best = score >= best_Q[query]
        values = [str(value or "none").split(" > ")[0] for value in data.corpus[category].to_pylist()]
        labels["category"] = _majority(query[best], [values[row] for row in product[best]], rows)
    useful = {way: label for way, label in labels.items() if len(set(label)) > 1}
    return pd.DataFrame(useful, index=pd.Index(data.query_ids, name="query_id"))


def per_query(
    table: pd.DataFrame, method: str, split: str, metric: Metric | str = NDCG @ 10, *, division: str = "test"
) -> pd.DataFrame:
    """One metric of one method from the `read_study` table of a study of one world: query_id x seed."""
    worlds = table["world"].unique()
    if len(worlds) > 1:
        raise UserError(f"the study has the worlds {', '.join(worlds)}; keep one of them")
    chosen = {"method": method, "split": split, **({} if division == "all" else {"division": division})}
    for column, value in chosen.items():
        if value not in set(table[column]):
            raise unknown(f"{column} of the study", value, table[column].dropna().unique())
        table = table[table[column] == value]
    if str(metric) not in table.columns:
        raise unknown("metric of the study", str(metric), [c for c in table.columns if c[0].isupper()])
    return table.pivot(index="query_id", columns="seed", values=str(metric))


def by_slice(
    a: pd.DataFrame,
    b: pd.DataFrame,
    labels: pd.DataFrame,
    metric: Metric | str = NDCG @ 10,
    *,
    whole: bool = True,
    samples: int = 5000,
) -> pd.DataFrame:
    """One row for all queries (if `whole`) and one a slice: way, slice, queries, `Interval`s of a and b, their paired
    `Difference`, and its p-value after Holm's correction over the slices (NaN for "all").

    a, b: a metric of two methods, query_id x seed, as `paired` takes them; labels: of `slices`.
    """
    absent = a.index.difference(labels.index)
    if len(absent):
        raise UserError(f"query {absent[0]!r} of the table is not in the data; give the data that the study was run on")
    labels = labels.loc[a.index]
    rows = [_row("all", "all", a, b, metric, samples)] if whole else []
    for way in labels.columns:
        for name, queries in labels.groupby(way, observed=True).groups.items():
            rows.append(_row(way, str(name), a.loc[queries], b.loc[queries], metric, samples))
    corrected = holm([row["difference"].p_value for row in rows[whole:]])
    return pd.DataFrame(rows).assign(p_corrected=[*[np.nan] * whole, *corrected])


def detectable(a: pd.DataFrame, b: pd.DataFrame, *, power: float = 0.8) -> str:
    """The smallest difference that a comparison on these queries can detect, as a sentence."""
    if len(a) < 2:
        return "with one query nothing can be detected"
    effect = minimal_detectable_effect((a - b).mean(axis=1), power=power)
    mean = float(b.mean().mean())
    relative = f" ({effect / mean:.0%})" if mean > 0 else ""
    return f"with {len(a):,} queries you can detect differences of {short(effect)}{relative} with {power:.0%} power"


def _row(way: str, name: str, a: pd.DataFrame, b: pd.DataFrame, metric: Metric | str, samples: int) -> dict:
    return {
        "way": way,
        "slice": name,
        "queries": len(a),
        "a": interval(a.mean(axis=1)),
        "b": interval(b.mean(axis=1)),
        "difference": replace(paired(a, b, samples=samples), metric=str(metric)),
    }


def _head_or_tail(mass_Q: np.ndarray) -> list[str]:
    descending = np.sort(mass_Q)[::-1]
    least = descending[np.searchsorted(np.cumsum(descending), descending.sum() / 2)]
    return ["head" if mass >= least else "tail" for mass in mass_Q]


def _ranges(values_Q: np.ndarray, count: int = 3) -> pd.Categorical:
    """Each value's range, such as "2-3", between quantiles; equal values are in the same range."""
    edges = np.quantile(values_Q, np.arange(1, count) / count, method="higher")
    _, which_Q = np.unique(np.searchsorted(np.unique(edges), values_Q, side="right"), return_inverse=True)
    inside = [values_Q[which_Q == which] for which in range(which_Q.max(initial=-1) + 1)]
    names = [f"{v.min()}-{v.max()}" if v.min() < v.max() else str(v.min()) for v in inside]
    return pd.Categorical.from_codes(which_Q, names, ordered=True)


def _majority(query: np.ndarray, values: list[str], rows: int) -> list[str]:
    """The most frequent value of each query (of ties the first by name); rare ones become "other"."""
    counts = pd.DataFrame({"query": query, "value": values}).value_counts().reset_index()
    counts = counts.sort_values(["query", "count", "value"], ascending=[True, False, True])
    chosen_Q = counts.drop_duplicates("query").set_index("query")["value"].reindex(range(rows), fill_value="none")
    return chosen_Q.where(chosen_Q.map(chosen_Q.value_counts()) >= LEAST, "other").tolist()
