"""Flat rows (query, product, score, fields of both) -> the three tables, and files -> rows."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, json, parquet

from gcl_toolkit.errors import DataError, first_line
from gcl_toolkit.findings import codes, present
from gcl_toolkit.ranked_data import IMAGE, RankedData, is_image

FORMATS = (".parquet", ".csv", ".tsv", ".jsonl")


class Tables(NamedTuple):
    """What a source read, not yet checked: `data()` makes it RankedData or raises, `gcl data check` lists the faults.

    `problems` are faults found while reading. `card["conflicts"]` counts, by field, ids with two different values,
    with the first such id; the first value was kept.
    """

    queries: pa.Table
    corpus: pa.Table
    qrels: pa.Table
    name: str
    card: dict
    problems: tuple[str, ...] = ()

    def data(self) -> RankedData:
        if self.problems:
            raise DataError(f"{self.name}: {self.problems[0]}")
        return RankedData(*self[:5])


def from_rows(rows: pa.Table, name: str, query_columns: list[str], product_columns: list[str]) -> Tables:
    """Three tables from one: the first value that isn't missing stands for a query or a product; order is kept."""
    queries, query_conflicts = first_values(rows.select(["query_id", *query_columns]), "query_id")
    corpus, corpus_conflicts = first_values(rows.select(["product_id", *product_columns]), "product_id")
    qrels = rows.drop_columns(query_columns + product_columns)
    return Tables(queries, corpus, qrels, name, {"conflicts": query_conflicts | corpus_conflicts})


def first_values(rows: pa.Table, key: str) -> tuple[pa.Table, dict[str, dict]]:
    """One row for each `key`, in order of appearance, each column with its first value that isn't missing.

    Also returns the conflicts: column -> count of keys with two different values, and the first such key.
    """
    rows = rows.set_column(rows.column_names.index(key), key, pc.cast(rows[key], pa.string()))
    rows = rows.filter(pa.array(present(rows[key])))
    keys, key_code = rows[key].unique(), codes(rows[key])
    columns: dict[str, pa.ChunkedArray] = {key: pa.chunked_array([keys])}
    conflicts = {}
    for name in rows.column_names:
        if name == key:
            continue
        filled = np.flatnonzero(present(rows[name]))
        which, at = np.unique(key_code[filled], return_index=True)
        first = np.full(len(keys), -1)
        first[which] = filled[at]
        columns[name] = rows[name].take(pa.array(first, mask=first < 0))
        if not is_image(rows[name]):
            value = codes(rows[name])
            differs = filled[value[filled] != value[first[key_code[filled]]]]
            if len(differs):
                conflicts[name] = {"count": len(set(key_code[differs])), "first": keys[key_code[differs[0]]].as_py()}
    return pa.table(columns), conflicts


def as_images(column: pa.ChunkedArray, folder: Path) -> pa.ChunkedArray:
    """A column of paths (relative to `folder`), of bytes or of {bytes, path} as `IMAGE`; missing ones are null."""
    if is_image(column):
        known = {column.type.field(i).name for i in range(column.type.num_fields)}
        data, path = (pc.struct_field(column, n) if n in known else pa.nulls(len(column)) for n in ("bytes", "path"))
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        data, path = pa.nulls(len(column)), pc.cast(column, pa.string())
        relative = pc.invert(pc.match_substring_regex(path, r"^(/|[A-Za-z]:\\|[a-z0-9]+://)"))
        path = pc.if_else(relative, pc.binary_join_element_wise(f"{folder}/", path, ""), path)
    else:
        data, path = column, pa.nulls(len(column))
    missing = pa.array(~present(column))
    parts = (_whole(pc.cast(part, field.type)) for part, field in zip((data, path), IMAGE, strict=True))
    return pa.chunked_array([pa.StructArray.from_arrays([*parts], fields=[*IMAGE], mask=missing)], IMAGE)


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def read_file(path: Path, text: tuple[str, ...] = ()) -> pa.Table:
    """A .parquet, .csv, .tsv or .jsonl file; the columns named in `text` are read as text in CSV (ids like 007)."""
    if path.suffix not in FORMATS:
        raise DataError(f"{path}: the ending is {path.suffix!r}; {', '.join(FORMATS)} can be read")
    table = _parsed(path, text)
    repeated = [c for c in table.column_names if table.column_names.count(c) > 1]
    if repeated:
        raise DataError(f"{path}: column {repeated[0]!r} stands there twice; each name once is expected")
    return table


def _parsed(path: Path, text: tuple[str, ...]) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return parquet.read_table(path)
        if path.suffix == ".jsonl":
            return json.read_json(path, json.ReadOptions(block_size=1 << 26))
        return csv.read_csv(
            path,
            csv.ReadOptions(block_size=1 << 26),
            csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ",", newlines_in_values=True),
            csv.ConvertOptions(column_types=dict.fromkeys(text, pa.string())),
        )
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        said = first_line(error)
        raise DataError(f"{path}: can't be read as {path.suffix[1:]} ({said}); is the file whole?") from None
