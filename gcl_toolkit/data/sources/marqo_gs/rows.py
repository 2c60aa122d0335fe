"""What both layouts of MarqoGS-10M share: columns, choice of queries, rows -> tables."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gcl_toolkit.data.columns import numbers
from gcl_toolkit.data.findings import pair_codes
from gcl_toolkit.data.ranked_data import hash64
from gcl_toolkit.data.sources.rows import Tables, first_values

PART = {"in_domain": (0, 0), "novel_query": (1, 0), "novel_document": (0, 1), "zero_shot": (1, 1)}
"""Split -> (query part, product part), as the tar's file names count them."""

NEEDED = ("query", "product_id", "score_linear")
OPTIONAL = ("query_id", "position", "score_reciprocal")
WORSE = "worse_scores"
"""Column of the qrels, if pairs are listed twice: the other scores of a pair, which the official evaluation counts."""


def assemble(rows: dict, corpora: dict, divisions: dict, card: dict) -> dict[str, Tables]:
    """Rows by split and (corpus, conflicts, notes...) by product part -> tables by split."""
    rows, ids_from = _with_global_ids(rows)
    best, tables = {name: _best_of_repeated(split) for name, split in rows.items()}, {}
    for name, split in rows.items():
        corpus, conflicts, *notes = corpora[PART[name][1]]
        queries, _ = first_values(split.select(["query_id", "query"]), "query_id")
        qrels, repeated = best[name]
        if not any(count for _, count in best.values()):
            qrels = qrels.drop_columns([WORSE])
        stated = {**card, "conflicts": conflicts, "repeated_pairs": repeated, "query_ids": ids_from}
        if name in divisions:
            division = [divisions[name].get(text) for text in queries["query"].to_pylist()]
            queries = queries.append_column("division", pa.array(division, pa.string()))
        tables[name] = Tables(queries, corpus, qrels, name, stated, notes=(*notes,))
    return tables


def _with_global_ids(rows: dict[str, pa.Table]) -> tuple[dict[str, pa.Table], str]:
    """A query_id must mean one query in all splits; otherwise, or without one, the query's text is the id."""
    if all("query_id" in split.column_names for split in rows.values()):
        named = pa.concat_tables(split.select(["query_id", "query"]) for split in rows.values())
        distinct = named.group_by(["query_id", "query"]).aggregate([])
        if pc.count_distinct(distinct["query_id"]).as_py() == distinct.num_rows:
            return rows, "as in the files"
    renamed = {}
    for name, split in rows.items():
        kept = split.drop_columns(["query_id"]) if "query_id" in split.column_names else split
        renamed[name] = kept.append_column("query_id", kept["query"])
    return renamed, "the query's text"


def _best_of_repeated(rows: pa.Table) -> tuple[pa.Table, int]:
    """The qrels with each pair once, at its best score, its other scores in `WORSE`; and how many rows that drops."""
    wanted = ("query_id", "product_id", "score_linear", "position", "score_reciprocal")
    kept = [name for name in wanted if name in rows.column_names]
    qrels = rows.select(kept).rename_columns(["score" if c == "score_linear" else c for c in kept])
    pair, score = pair_codes(qrels), np.nan_to_num(numbers(qrels["score"]))
    best_first = np.lexsort((-score, pair))
    is_again = np.diff(pair[best_first], prepend=-1) == 0
    best = best_first[np.maximum.accumulate(np.where(is_again, 0, np.arange(len(pair))))]
    worse: dict[int, list[float]] = {}
    for row, best_row in zip(best_first[is_again], best[is_again].tolist(), strict=True):
        worse.setdefault(best_row, []).append(float(score[row]))
    once = np.sort(best_first[~is_again])
    column = pa.array([worse.get(row) for row in once.tolist()], pa.list_(pa.float64()))
    return qrels.take(pa.array(once)).append_column(WORSE, column), int(is_again.sum())


def choose(texts: Iterable[pa.ChunkedArray], count: int, seed: int) -> pa.Array:
    """The `count` distinct query texts with the smallest seeded hash."""
    distinct = {text for column in texts for text in pc.unique(column).to_pylist() if text}
    return pa.array(sorted(distinct, key=lambda text: hash64(f"{seed}/{text}"))[:count], pa.string())
