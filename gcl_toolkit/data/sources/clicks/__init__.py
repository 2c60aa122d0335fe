"""Click logs: interactions -> scored pairs, corrected for position bias; `gcl clicks`.

A score is the product's clicks per *look* (not per impression), shrunk where looks are few, as a percentage of those of
the query's best product; 1..100 as in MarqoGS, so that every weighting applies. It is not the rank: ranks separate
products that a few clicks can't tell apart, and models trained on them are worse (docs/LOG.md).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from gcl_toolkit.data.columns import numbers
from gcl_toolkit.data.findings import bad_scores
from gcl_toolkit.data.formats import Run
from gcl_toolkit.data.propensity import Propensities, harvest, power_law, relevance
from gcl_toolkit.data.ranked_data import RankedData, four_way_split, normalise_text
from gcl_toolkit.data.sources.clicks.log import LogConfig, read_log
from gcl_toolkit.data.sources.clicks.ubi import Ubi
from gcl_toolkit.data.sources.rows import Tables, unmatched, usable_fields
from gcl_toolkit.data.tabular import check_columns, read_file
from gcl_toolkit.errors import DataError, UserError


@dataclass(frozen=True)
class ClickConfig(LogConfig):
    """How a log becomes scores."""

    propensity: str = "harvest"
    """How likely a position is looked at. harvest: estimated from the log; none: always; a number eta:
    1 / position^eta."""
    clip: float = 0.01
    """Lower propensities are raised to this, so that a click at a deep position can't count a thousand times."""
    support: float = 1.0
    """Products shown less often for a query are left out."""

    def __post_init__(self):
        super().__post_init__()
        try:
            eta = 0.0 if self.propensity in ("harvest", "none") else float(self.propensity)
        except ValueError:
            eta = math.nan
        if not 0 <= eta < math.inf:
            raise UserError(f"propensity is {self.propensity!r}; harvest, none or a number >= 0 is expected")
        if not 0 < self.clip <= 1:
            raise UserError(f"clip is {self.clip}; above 0 and at most 1 is expected")


@dataclass(frozen=True)
class Clicks:
    """Scored pairs, and how they were made."""

    table: pd.DataFrame
    """query, product_id, score (1..100, see above), position (by score), relevance (interactions per look), rate
    (per impression), interactions, impressions; best first within a query."""
    propensities: Propensities
    rows: dict[str, int]
    """Rows of the log, and how many were left out for each reason."""
    left_out: dict[str, int]
    """Pairs below the support, and pairs of queries without any interaction."""

    def report(self) -> dict:
        """Counts, propensities and what was left out, ready for JSON."""
        per_query = self.table.groupby("query").size()
        theta, positions = self.propensities, range(1, len(self.propensities.value_K) + 1)
        return {
            "rows": self.rows,
            "pairs left out": self.left_out,
            "queries": len(per_query),
            "pairs": len(self.table),
            "pairs per query": {f"{q:.0%}": float(per_query.quantile(q)) for q in (0.0, 0.25, 0.5, 0.75, 1.0)},
            "share of pairs with an interaction": float((self.table["interactions"] > 0).mean()),
            "propensities": pd.DataFrame(
                {"position": positions, "value": theta.value_K, "low": theta.low_K, "high": theta.high_K}
            ).to_dict("records"),
            "pairs that propensities were estimated from": theta.pairs,
        }


def read_clicks(
    path: str | Path | Ubi, columns: Mapping[str, str] | None = None, config: ClickConfig | None = None
) -> Clicks:
    """Scores of the (query, product) pairs of a log; its columns as in `read_log`."""
    config = config or ClickConfig()
    log = read_log(path, columns, config)
    cells, pairs = log.cells, len(log.query_of_pair)
    if config.propensity == "harvest":
        theta = harvest(cells)
    else:
        theta = power_law(int(cells.position_C.max()), 0.0 if config.propensity == "none" else float(config.propensity))
    looks_C = cells.shown_C * np.maximum(theta.value_K, config.clip)[cells.position_C - 1]
    examined_P, shown_P, clicked_P = (
        np.bincount(cells.pair_C, values, pairs) for values in (looks_C, cells.shown_C, cells.clicked_C)
    )
    enough_P = (shown_P >= config.support) & (examined_P > 0)
    used_P = np.bincount(log.query_of_pair, clicked_P * enough_P)[log.query_of_pair] > 0
    kept = np.flatnonzero(enough_P & used_P)
    if not len(kept):
        raise DataError(f"{path}: no query has an interaction with a product shown {config.support:g} times or more")
    _, query_P = np.unique(log.query_of_pair[kept], return_inverse=True)
    depth_P = np.exp(np.bincount(cells.pair_C, cells.shown_C * np.log(cells.position_C), pairs) / shown_P)
    rate_P = log.spread * relevance(query_P, clicked_P[kept] / log.spread, examined_P[kept], depth_P[kept])
    table = pd.DataFrame(
        {
            "query": log.queries[log.query_of_pair[kept]],
            "product_id": log.products[log.product_of_pair[kept]],
            "relevance": rate_P,
            "rate": clicked_P[kept] / shown_P[kept],
            "interactions": clicked_P[kept],
            "impressions": shown_P[kept],
        }
    ).sort_values(["query", "relevance"], ascending=[True, False], kind="stable", ignore_index=True)
    table.insert(2, "position", table.groupby("query").cumcount() + 1)
    best = table.groupby("query")["relevance"].transform("first")
    table.insert(2, "score", 100 * (table["relevance"] / best).clip(lower=0.01))  # at most 100, to the last bit
    unused = int((enough_P & ~used_P).sum())
    left_out = {"below the support": int((~enough_P).sum()), "of queries nobody used": unused}
    return Clicks(table, theta, log.rows, left_out)


def as_splits(clicks: Clicks, products: str | Path, seed: int = 0) -> dict[str, RankedData]:
    """RankedData of scored pairs and a catalogue. Pairs with products that the catalogue lacks are left out; the card
    counts them, and its notes name one."""
    file = Path(products)
    rows, notes = usable_fields(read_file(file), file.parent)
    check_columns(rows.column_names, ["product_id"], file)
    pairs = pa.Table.from_pandas(clicks.table.rename(columns={"query": "query_id"}), preserve_index=False)
    known, note = unmatched(pairs["product_id"], rows["product_id"], "pairs have products that", "the catalogue")
    if not known.any():
        raise DataError(f"{file}: {note}; is product_id the same id as in the log?")
    kept = pairs.filter(pa.array(known))
    texts = kept["query_id"].unique()
    card = {"source": "click log", "pairs with unknown products": int((~known).sum()), **clicks.report()}
    notes = (*notes, note) if note else notes
    queries, kinds = pa.table({"query_id": texts, "query": texts}), {"corpus": file.suffix.lower()}
    try:
        data = Tables(queries, rows, kept, "clicks", card, notes=notes, kinds=kinds).data()
    except DataError as error:
        raise DataError(f"{file}: {str(error).removeprefix('clicks: ')}") from None
    return four_way_split(data, seed=seed)


def grades(clicks: Clicks, query_ids: Mapping[str, str] | None = None) -> Run:
    """Qrels of scored pairs: grades 0..4, a quarter of the best product's relevance each, rounded.

    query_ids: text -> id; queries whose normalised text it lacks are left out. By default the text is the id. Products
    that were never shown, or less often than the support, stay unjudged.
    """
    ids = None if query_ids is None else {normalise_text(text): name for text, name in query_ids.items()}
    table = clicks.table.assign(grade=(clicks.table["score"] / 25).round())
    return {
        ids[query] if ids else query: dict(zip(rows["product_id"], rows["grade"], strict=True))
        for query, rows in table.groupby("query")
        if ids is None or query in ids
    }


def read_judgements(path: str | Path) -> pd.DataFrame:
    """A table with query, product_id and score."""
    table = read_file(path)
    check_columns(table.column_names, ("query", "product_id", "score"), path)
    judged, notes = usable_fields(table.select(["query", "product_id"]), Path())
    if faults := [*notes, *bad_scores(table)]:
        raise DataError(f"{path}: {faults[0]}")
    return judged.to_pandas().assign(score=numbers(table["score"]))


def agreement(table: pd.DataFrame, judgements: pd.DataFrame, column: str = "relevance") -> float:
    """Mean over queries of Kendall's tau-b between a column of the scored pairs and judgements (query, product_id,
    score); NaN if no query has two judged products with different scores. Raises DataError if no pair is judged."""
    from scipy.stats import kendalltau

    judged = judgements.assign(query=judgements["query"].map(normalise_text))[["query", "product_id", "score"]]
    both = table.merge(judged, on=["query", "product_id"], suffixes=("", "_judged"))
    if both.empty:
        first, ours = (tuple(rows[["query", "product_id"]].iloc[0]) for rows in (judged, table))
        raise DataError(f"no judged pair, such as {first}, is among the scored pairs, as {ours}; are the ids equal?")
    taus = [
        kendalltau(rows[column], rows["score_judged"]).statistic
        for _, rows in both.groupby("query")
        if rows["score_judged"].nunique() > 1 and rows[column].nunique() > 1
    ]
    return float(np.mean(taus)) if taus else float("nan")
