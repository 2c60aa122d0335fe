"""Quarantine: a file that names rows to leave out, with the reason; made by `gcl data check`, honoured when loading."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from gcl_toolkit.errors import DataError, UserError, unknown
from gcl_toolkit.findings import codes, numbers, present
from gcl_toolkit.ranked_data import is_image
from gcl_toolkit.sources.rows import Tables

TABLES = ("queries", "corpus", "qrels")


class Suspect(NamedTuple):
    """A row (from 0) of a table ("queries", "corpus", "qrels") of the part read from `file`, and what is wrong.

    `id` is its query_id or product_id, or both with a tab between, and has to be there still when it is left out.
    """

    file: str
    table: str
    row: int
    id: str
    reason: str


def suspects(part: Tables, pictures: Mapping[int, str]) -> list[Suspect]:
    """Rows of a part that can't be trained on. pictures: corpus row -> what is wrong with its picture."""
    found = [*_bad_pairs(part), *_pictures(part, pictures)]
    for table, key in (("queries", "query_id"), ("corpus", "product_id")):
        rows = getattr(part, table)
        columns = [c for c in rows.column_names if c not in ("query_id", "product_id", "division")]
        filled = [_filled(rows, c, pictures if table == "corpus" else {}) for c in columns]
        if columns and key in rows.column_names:
            ids = rows[key].cast(pa.string()).to_pylist()
            empty = np.flatnonzero(~np.any(filled, axis=0))
            found += [Suspect(part.name, table, int(row), str(ids[row]), "has no field at all") for row in empty]
    return sorted(set(found), key=lambda suspect: suspect[:3])


def _filled(rows: pa.Table, column: str, pictures: Mapping[int, str]) -> np.ndarray:
    there = present(rows[column]).copy()
    if is_image(rows[column]):
        there[[*pictures]] = False
    return there


def _pictures(part: Tables, pictures: Mapping[int, str]) -> Iterator[Suspect]:
    for row, reason in pictures.items():
        yield Suspect(part.name, "corpus", row, str(part.corpus["product_id"][row].as_py()), f"picture {reason}")


def _bad_pairs(part: Tables) -> Iterator[Suspect]:
    qrels = part.qrels
    if not {"query_id", "product_id", "score"} <= set(qrels.column_names):
        return
    score, ids = numbers(qrels["score"]), _pair_ids(qrels)
    reasons = {
        "score is not a number": np.isnan(score),
        "score is infinite": np.isinf(score),
        "score is negative": np.isfinite(score) & (score < 0),
    }
    pair = codes(pa.chunked_array([pa.array(ids, pa.string())]))
    order = np.lexsort((np.arange(len(pair)), pair))
    again = np.zeros(len(pair), bool)
    again[order[1:]] = pair[order[1:]] == pair[order[:-1]]
    best = np.full(pair.max(initial=-1) + 1, -np.inf)
    least = np.full(pair.max(initial=-1) + 1, np.inf)
    np.fmax.at(best, pair, score)
    np.fmin.at(least, pair, score)
    reasons["the pair has several scores, none of which is known to be right"] = best[pair] > least[pair]
    reasons["repeats the pair of a row above"] = again & (best[pair] == least[pair])
    for reason, bad in reasons.items():
        yield from (Suspect(part.name, "qrels", int(row), ids[row], reason) for row in np.flatnonzero(bad))


def _pair_ids(qrels: pa.Table) -> list[str]:
    sides = (qrels[key].cast(pa.string()).to_pylist() for key in ("query_id", "product_id"))
    return [f"{query}\t{product}" for query, product in zip(*sides, strict=True)]


def write(found: Iterable[Suspect], path: str | Path) -> None:
    """As CSV: file, table, row, id, reason."""
    try:
        pd.DataFrame(found, columns=Suspect._fields).to_csv(path, index=False)
    except OSError as error:
        raise UserError(f"{path} can't be written ({error}); choose another file for the quarantine") from None


def read(path: str | Path) -> list[Suspect]:
    """What `write` wrote, and perhaps somebody shortened."""
    try:
        rows = pd.read_csv(path, dtype={"row": "int64"}, keep_default_na=False)
        found = [Suspect(*row) for row in rows[[*Suspect._fields]].itertuples(index=False)]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path} can't be read as a quarantine ({error}); gcl data check --quarantine writes one"
        ) from None
    for suspect in found:
        if suspect.table not in TABLES:
            raise unknown(f"table in {path}", suspect.table, TABLES)
    return found


def obeyed(parts: Mapping[str, Tables], path: str | Path | None) -> dict[str, Tables]:
    """The parts without what the quarantine at `path` names; as they are without one."""
    left_out = read(path) if path else []
    return {name: without(part, left_out) if left_out else part for name, part in parts.items()}


def without(part: Tables, left_out: Iterable[Suspect]) -> Tables:
    """The part without those rows. A product whose picture is bad keeps its other fields; a query or product that is
    left out takes its pairs along."""
    queries, corpus, qrels = part[:3]
    drop: dict[str, list[int]] = {name: [] for name in TABLES}
    no_picture: list[int] = []
    for suspect in left_out:
        if suspect.file != part.name:
            continue
        _check_id(part, suspect)
        is_picture = suspect.table == "corpus" and suspect.reason.startswith("picture")
        (no_picture if is_picture else drop[suspect.table]).append(suspect.row)
    for i, name in enumerate(corpus.column_names):
        if no_picture and is_image(corpus[name]):
            gone = np.zeros(corpus.num_rows, bool)
            gone[no_picture] = True
            whole = pc.if_else(pa.array(gone), pa.scalar(None, corpus[name].type), corpus[name].combine_chunks())
            corpus = corpus.set_column(i, name, whole)
    queries, corpus, qrels = (_kept(t, drop[n]) for n, t in zip(drop, (queries, corpus, qrels), strict=True))
    for key, table in (("query_id", queries), ("product_id", corpus)):
        known = table[key].cast(pa.string()).combine_chunks()
        qrels = qrels.filter(pc.is_in(qrels[key].cast(pa.string()), value_set=known))
    return part._replace(queries=queries, corpus=corpus, qrels=qrels)


def _kept(table: pa.Table, rows: list[int]) -> pa.Table:
    kept = np.ones(table.num_rows, bool)
    kept[rows] = False
    return table.filter(pa.array(kept))


def _check_id(part: Tables, suspect: Suspect) -> None:
    table = getattr(part, suspect.table)
    keys = [k for k in ("query_id", "product_id") if k in table.column_names]
    if suspect.table != "qrels":
        keys = ["query_id" if suspect.table == "queries" else "product_id"]
    there = suspect.row < table.num_rows and "\t".join(str(table[k][suspect.row].as_py()) for k in keys)
    if there != suspect.id:
        raise DataError(
            f"the quarantine names row {suspect.row} of the {suspect.table} of {part.name} as {suspect.id!r}, which is "
            f"{there!r}; the data changed: make a new one with gcl data check --quarantine"
        )
