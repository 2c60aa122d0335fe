"""Quarantine: a file that names rows to leave out, with the reason; `gcl data check` writes it, `load` applies it."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gcl_toolkit.data.columns import is_image, numbers, present, put
from gcl_toolkit.data.findings import has_columns, pair_codes
from gcl_toolkit.data.sources.rows import Tables, fields_in
from gcl_toolkit.data.tabular import read_file
from gcl_toolkit.errors import DataError, UserError, unknown

KEYS = {"queries": ("query_id",), "corpus": ("product_id",), "qrels": ("query_id", "product_id")}
NO_FIELD = "has no field at all"


class Suspect(NamedTuple):
    """A row (from 0) of a table ("queries", "corpus", "qrels") of the part read from `file`, and what is wrong with it.

    `id` is its query_id or product_id, or both separated by a tab; it must still match when the row is left out.
    """

    file: str
    table: str
    row: int
    id: str
    reason: str


def suspects(part: Tables, broken: Mapping[int, str]) -> list[Suspect]:
    """Rows of a part that can't be trained on. broken: corpus row -> what is wrong with its picture."""
    rows = {("qrels", row, reason) for row, reason in _bad_pairs(part.qrels)}
    rows |= {("corpus", row, f"picture {reason}") for row, reason in broken.items()}
    for name, table in (("queries", part.queries), ("corpus", part.corpus)):
        filled = [present(table[c]).copy() for c in fields_in(table)]
        for column, field in zip(filled, fields_in(table), strict=True):
            if is_image(table[field]):
                column[[*broken]] = False
        if filled and has_columns(table, *KEYS[name]):
            rows |= {(name, int(row), NO_FIELD) for row in np.flatnonzero(~np.any(filled, axis=0))}
    return [Suspect(part.name, name, row, _id(getattr(part, name), name, row), why) for name, row, why in sorted(rows)]


def _id(table: pa.Table, name: str, row: int) -> str:
    return "\t".join(str(table[key][row].as_py()) for key in KEYS[name])


def _bad_pairs(qrels: pa.Table) -> Iterator[tuple[int, str]]:
    if not has_columns(qrels, *KEYS["qrels"]) or "score" not in qrels.column_names:
        return
    import pandas as pd

    score, pair = numbers(qrels["score"]), pd.Series(pair_codes(qrels))
    of_pair = pd.Series(score).groupby(pair)
    best, least, again = of_pair.transform("max"), of_pair.transform("min"), pair.duplicated()
    reasons = {
        "score is not a number": np.isnan(score),
        "score is infinite": np.isinf(score),
        "score is negative": np.isfinite(score) & (score < 0),
        "the pair has several scores, none of which is known to be right": best > least,
        "repeats the pair of a row above": again & (best == least),
    }
    for reason, bad in reasons.items():
        yield from ((int(row), reason) for row in np.flatnonzero(bad))


def write(rows: Iterable[Suspect], path: str | Path) -> None:
    """As CSV: file, table, row, id, reason."""
    try:
        with Path(path).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([Suspect._fields, *rows])
    except OSError as error:
        raise UserError(f"{path} can't be written ({error}); choose another file for the quarantine") from None


def read(path: str | Path) -> list[Suspect]:
    """A file of `write`, perhaps edited by hand."""
    try:
        rows = read_file(path, kind=".csv").select(Suspect._fields).to_pylist()
        listed = [Suspect(**{**row, "row": int(row["row"])}) for row in rows]
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{path} can't be read as a quarantine ({error}); write one with gcl data check --quarantine"
        ) from None
    for suspect in listed:
        if suspect.table not in KEYS:
            raise unknown(f"table in {path}", suspect.table, KEYS)
    return listed


def without_quarantined(parts: Mapping[str, Tables], path: str | Path | None) -> dict[str, Tables]:
    """The parts without the rows that the quarantine at `path` names; unchanged if there is no path."""
    listed = read(path) if path else []
    return {name: _without(part, [s for s in listed if s.file == part.name]) for name, part in parts.items()}


def _without(part: Tables, listed: list[Suspect]) -> Tables:
    """The part without those rows. A product with a bad picture keeps its other fields; the pairs of a query or product
    that is left out are left out too."""
    if not listed:
        return part
    keep = {name: np.ones(getattr(part, name).num_rows, bool) for name in KEYS}
    has_picture = keep["corpus"].copy()
    for suspect in listed:
        _check_id(part, suspect)
        is_picture = suspect.table == "corpus" and suspect.reason.startswith("picture")
        (has_picture if is_picture else keep[suspect.table])[suspect.row] = False
    corpus = part.corpus
    for name in [name for name in corpus.column_names if is_image(corpus[name]) and not has_picture.all()]:
        images = corpus[name].combine_chunks()
        corpus = put(corpus, name, pc.if_else(pa.array(has_picture), images, pa.scalar(None, images.type)))
    tables = {"queries": part.queries, "corpus": corpus, "qrels": part.qrels}
    kept = {name: table.filter(pa.array(keep[name])) for name, table in tables.items()}
    for name in ("queries", "corpus"):
        key = KEYS[name][0]
        known = pc.is_in(kept["qrels"][key], value_set=kept[name][key].combine_chunks())
        kept["qrels"] = kept["qrels"].filter(known)
    return replace(part, **kept)


def _check_id(part: Tables, suspect: Suspect) -> None:
    table = getattr(part, suspect.table)
    seen = _id(table, suspect.table, suspect.row) if 0 <= suspect.row < table.num_rows else "missing"
    if seen != suspect.id:
        raise DataError(
            f"the quarantine names row {suspect.row} of the {suspect.table} of {part.name} as {suspect.id!r}, but it "
            f"is {seen!r}; the data has changed: write a new one with gcl data check --quarantine"
        )
