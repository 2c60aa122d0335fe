"""Tables: what a source has read, not yet checked; and rows -> usable fields, one row for each id."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gcl_toolkit.data.columns import (
    as_images,
    as_text,
    as_vectors,
    codes,
    is_image,
    is_numbers,
    is_vector,
    numbers,
    present,
    put,
)
from gcl_toolkit.data.findings import NOT_FIELDS, field_fault, findings
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.data.tabular import FIRST_LINE
from gcl_toolkit.errors import DataError

_ROW_NUMBERS = re.compile(r"|Unnamed: \d+|__index_level_\d+__")
"""Names of the columns that pandas adds for its row index."""
_ROWS = re.compile(r"\b(queries|corpus|qrels) row(s?) (\d+)(?: and (\d+))?")


@dataclass(frozen=True)
class Tables:
    """What a source has read: `data()` makes it RankedData or raises; `gcl data check` lists all faults.

    problems: faults found while reading. notes: what was left out or converted, to be shown to the user.
    card["conflicts"]: by field, the count of ids with two different values, and the first such id; the first value is
    kept. Ids become text, scores and positions numbers, if they can. kinds: table -> ending of the file that holds its
    rows, so that faults name the lines of a text file.
    """

    queries: pa.Table
    corpus: pa.Table
    qrels: pa.Table
    name: str
    card: dict = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("queries", "corpus", "qrels"):
            table = getattr(self, name)
            for key in {"query_id", "product_id"} & set(table.column_names):
                if not (is_image(table[key]) or field_fault(table[key])):
                    table = put(table, key, as_text(table[key]).cast(pa.string()))
            object.__setattr__(self, name, _with_numbers(table) if name == "qrels" else table)

    def faults(self) -> list[str]:
        return [*self.problems, *findings(self.queries, self.corpus, self.qrels)]

    def data(self) -> RankedData:
        if self.problems:
            raise DataError(self.located(f"{self.name}: {self.problems[0]}"))
        card = {**self.card, "notes": [*self.notes]} if self.notes else self.card
        try:
            return RankedData(self.queries, self.corpus, self.qrels, self.name, card)
        except DataError as error:
            raise DataError(self.located(str(error))) from None

    def located(self, fault: str) -> str:
        """A fault with the lines of a text file in the place of rows: "qrels row 0" may be "qrels line 2"."""

        def lines(match: re.Match) -> str:
            table, plural, *rows = match.groups()
            if (start := FIRST_LINE.get(self.kinds.get(table, ""))) is None:
                return match[0]
            return f"{table} line{plural} {' and '.join(str(int(row) + start) for row in rows if row)}"

        return _ROWS.sub(lines, fault)


def _with_numbers(qrels: pa.Table) -> pa.Table:
    """Positions and further scores that a text file holds, as numbers; the score itself stays as it was written."""
    for name in qrels.column_names:
        if (name == "position" or name.startswith("score_")) and pa.types.is_string(qrels[name].type):
            values = numbers(qrels[name])
            if not np.isnan(values[present(qrels[name])]).any():
                column = pa.chunked_array([pa.array(values, from_pandas=True)])
                is_whole = name == "position" and (np.isnan(values) | (values == np.floor(values))).all()
                qrels = put(qrels, name, column.cast(pa.int64()) if is_whole else column)
    return qrels


def usable_fields(rows: pa.Table, folder: Path, raw: Collection[str] = ()) -> tuple[pa.Table, tuple[str, ...]]:
    """The rows with every column as text, images or vectors, and a note on each that can't be a field and is left out.

    Columns `image`, `..._image` and structs of {bytes, path} are images; `folder` is where their paths start.
    raw: columns that are no fields and stay as they are.
    """
    notes = []
    for name in rows.column_names:
        if name in raw:
            continue
        column, fault = rows[name], None
        if name == "image" or name.endswith("_image") or is_image(column):
            try:
                column = as_images(column, folder.absolute())
            except pa.ArrowException:
                fault = f"it holds values of type {column.type}; one image or path in each row is expected"
        elif _ROW_NUMBERS.fullmatch(name):
            fault = "it has no name; pandas writes row numbers so"
        elif not (fault := field_fault(column)):
            if not is_numbers(column):
                column = as_text(column)
            elif not is_vector(column):
                notes += [f"column {name!r} is read as vectors of float32"] if "double" in str(column.type) else []
                column = as_vectors(column)
        if fault:
            notes.append(f"column {name!r} is not read: {fault}")
        rows = rows.drop_columns([name]) if fault else put(rows, name, column)
    return rows, tuple(notes)


def first_values(rows: pa.Table, key: str) -> tuple[pa.Table, dict[str, dict]]:
    """One row for each `key`, in order of appearance, each column with its first value that isn't missing.

    Also returns the conflicts: column -> count of keys with two different values, and the first such key.
    """
    rows = put(rows, key, as_text(rows[key]))
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
        if not (is_image(rows[name]) or is_vector(rows[name])):
            value = codes(rows[name])
            differs = filled[value[filled] != value[first[key_code[filled]]]]
            if len(differs):
                conflicts[name] = {"count": len(set(key_code[differs])), "first": keys[key_code[differs[0]]].as_py()}
    return pa.table(columns), conflicts


def fields_in(table: pa.Table) -> list[str]:
    return [name for name in table.column_names if name not in NOT_FIELDS]


def unmatched(ids: pa.ChunkedArray, known: pa.ChunkedArray, what: str, where: str) -> tuple[np.ndarray, str]:
    """Which ids are known (bool), and a note that counts the others and names one; "" if all are known."""
    is_known = pc.is_in(ids, value_set=known.combine_chunks()).to_numpy()
    if is_known.all():
        return is_known, ""
    first = ids[int((~is_known).argmax())].as_py()
    similar = {value.lstrip("0"): value for value in known.to_pylist() if value}.get(first.lstrip("0"))
    hint = f" ({where} has {similar!r})" if similar is not None else ""
    return is_known, f"{(~is_known).sum():,} of {len(ids):,} {what} {where} lacks, such as {first!r}{hint}"
