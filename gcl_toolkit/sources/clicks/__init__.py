"""Click logs: interactions -> scored pairs, with the bias of positions taken out; `gcl clicks`.

What a score is: the product's clicks per *look* (not per impression), shrunk where looks are few, as a percentage of
those of the query's best product. Not its rank: ranks put products far apart that a few clicks can't tell apart, and
what is trained on them is worse (docs/LOG.md). 1..100 as in MarqoGS, so that every weighting applies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from gcl_toolkit.errors import DataError, UserError
from gcl_toolkit.propensity import Propensities, harvest, power_law, relevance
from gcl_toolkit.ranked_data import RankedData, four_way_split, normalise_text
from gcl_toolkit.sources.clicks.log import Log, LogConfig, read_log
from gcl_toolkit.sources.rows import as_images, read_file

__all__ = ["ClickConfig", "Clicks", "agreement", "as_splits", "load", "read_clicks", "read_judgements"]


@dataclass(frozen=True)
class ClickConfig(LogConfig):
    """How a log becomes scores."""

    propensity: str = "harvest"
    """How likely a position is looked at. harvest: found in the log; none: always; a number eta: 1 / position^eta."""
    clip: float = 0.01
    """Propensities below this are raised to it, so that a click far below can't count a thousand times."""
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
    """Scored pairs, and what they were made from."""

    table: pd.DataFrame
    """query, product_id, score (1..100, see above), position (by score), relevance (interactions per look), rate
    (per impression), interactions, impressions; best first within a query."""
    propensities: Propensities
    rows: dict[str, int]
    """Rows of the log, and how many were left out for what."""
    left_out: dict[str, int]
    """Pairs below the support, and pairs of queries without any interaction."""

    def report(self) -> dict:
        """All that should be said of the scores, ready for JSON."""
        per_query = self.table.groupby("query").size()
        theta = self.propensities
        return {
            "rows": self.rows,
            "pairs left out": self.left_out,
            "queries": len(per_query),
            "pairs": len(self.table),
            "pairs per query": {f"{q:.0%}": float(per_query.quantile(q)) for q in (0.0, 0.25, 0.5, 0.75, 1.0)},
            "share of pairs with an interaction": float((self.table["interactions"] > 0).mean()),
            "propensities": [
                {"position": k, "value": value, "low": low, "high": high}
                for k, (value, low, high) in enumerate(
                    zip(theta.value_K.tolist(), theta.low_K.tolist(), theta.high_K.tolist(), strict=True), start=1
                )
            ],
            "pairs that told of propensities": theta.pairs,
        }


def read_clicks(
    path: str | Path, columns: Mapping[str, str] | None = None, config: ClickConfig | None = None
) -> Clicks:
    """Scores of the (query, product) pairs of a log; its columns as in `read_log`."""
    config = config or ClickConfig()
    log = read_log(path, columns, config)
    theta = _propensities(log, config)
    cells, pairs = log.cells, len(log.query_of_pair)
    looks_C = cells.shown_C * np.maximum(theta.value_K, config.clip)[cells.position_C - 1]
    examined_P, shown_P, clicked_P = (
        np.bincount(cells.pair_C, values, pairs) for values in (looks_C, cells.shown_C, cells.clicked_C)
    )
    enough_P = (shown_P >= config.support) & (examined_P > 0)
    lively_P = np.bincount(log.query_of_pair, clicked_P * enough_P)[log.query_of_pair] > 0
    kept = np.flatnonzero(enough_P & lively_P)
    if not len(kept):
        raise DataError(f"{path}: no query has an interaction with a product shown {config.support:g} times or more")
    _, query_P = np.unique(log.query_of_pair[kept], return_inverse=True)
    place_P = np.exp(np.bincount(cells.pair_C, cells.shown_C * np.log(cells.position_C), pairs) / shown_P)
    rated_P = log.spread * relevance(query_P, clicked_P[kept] / log.spread, examined_P[kept], place_P[kept])
    table = pd.DataFrame(
        {
            "query": log.queries[log.query_of_pair[kept]],
            "product_id": log.products[log.product_of_pair[kept]],
            "relevance": rated_P,
            "rate": clicked_P[kept] / shown_P[kept],
            "interactions": clicked_P[kept],
            "impressions": shown_P[kept],
        }
    ).sort_values(["query", "relevance"], ascending=[True, False], kind="stable", ignore_index=True)
    table.insert(2, "position", table.groupby("query").cumcount() + 1)
    best = table.groupby("query")["relevance"].transform("first")
    table.insert(2, "score", 100 * (table["relevance"] / best).clip(lower=0.01))  # at most 100, to the last bit
    left_out = {
        "below the support": int((~enough_P).sum()),
        "of queries nobody used": int((enough_P & ~lively_P).sum()),
    }
    return Clicks(table, theta, log.rows, left_out)


def load(
    path: str | Path,
    products: str | Path,
    columns: Mapping[str, str] | None = None,
    config: ClickConfig | None = None,
    seed: int = 0,
) -> dict[str, RankedData]:
    """The four splits of a log and a catalogue: a table with `product_id` and fields (title, image, ...)."""
    return as_splits(read_clicks(path, columns, config), products, seed)


def as_splits(clicks: Clicks, products: str | Path, seed: int = 0) -> dict[str, RankedData]:
    """RankedData of scored pairs and the table of a catalogue. Pairs with products that the catalogue lacks, since it
    no longer sells them, are left out; the card says how many."""
    file = Path(products)
    corpus = read_file(file, ("product_id", "title", "image"))
    if "product_id" not in corpus.column_names:
        raise DataError(f"{file}: column 'product_id' is missing; it has {', '.join(corpus.column_names)}")
    for i, name in enumerate(corpus.column_names):
        if name == "image" or name.endswith("_image"):
            corpus = corpus.set_column(i, name, as_images(corpus[name], file.parent.absolute()))
    ids = pc.cast(corpus["product_id"], pa.string())
    known = clicks.table["product_id"].isin(set(ids.to_pylist()))
    if not known.any():
        some = clicks.table["product_id"].iloc[0]
        raise DataError(f"{file}: has none of the log's products, such as {some!r}; is product_id the same id?")
    pairs = clicks.table[known]
    texts = pairs["query"].unique()
    data = RankedData(
        pa.table({"query_id": texts, "query": texts}),
        corpus,
        pa.Table.from_pandas(pairs.rename(columns={"query": "query_id"}), preserve_index=False),
        "clicks",
        {"source": "click log", "pairs with unknown products": int((~known).sum()), **clicks.report()},
    )
    return four_way_split(data, seed=seed)


def read_judgements(path: str | Path) -> pd.DataFrame:
    """A table with query, product_id and score."""
    table = read_file(Path(path), ("query", "product_id"))
    missing = [name for name in ("query", "product_id", "score") if name not in table.column_names]
    if missing:
        raise DataError(f"{path}: column {missing[0]!r} is missing; it has {', '.join(table.column_names)}")
    return table.select(["query", "product_id", "score"]).to_pandas().astype({"query": str, "product_id": str})


def agreement(table: pd.DataFrame, judgements: pd.DataFrame, column: str = "relevance") -> float:
    """Mean over queries of Kendall's tau-b between a column of the scored pairs and judgements (query, product_id,
    score); NaN where no query has two judged products with different scores."""
    from scipy.stats import kendalltau

    said = judgements.assign(query=judgements["query"].map(normalise_text))
    both = table.merge(said[["query", "product_id", "score"]], on=["query", "product_id"], suffixes=("", "_judged"))
    taus = [
        kendalltau(rows[column], rows["score_judged"]).statistic
        for _, rows in both.groupby("query")
        if rows["score_judged"].nunique() > 1 and rows[column].nunique() > 1
    ]
    return float(np.mean(taus)) if taus else float("nan")


def _propensities(log: Log, config: ClickConfig) -> Propensities:
    positions = int(log.cells.position_C.max())
    if config.propensity == "harvest":
        return harvest(log.cells)
    return power_law(positions, 0.0 if config.propensity == "none" else float(config.propensity))
