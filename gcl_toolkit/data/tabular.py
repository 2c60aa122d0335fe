"""The one reader of tables on disk: CSV, TSV, JSONL and parquet.

CSV, TSV and JSONL give text columns only: no type is guessed, so that 007, 18-11-2025 and 18446744073709551615 stay as
they are written. Parquet states its types. Text files are UTF-8, with or without a byte order mark. CSV is quoted as in
RFC 4180; its separator (comma, semicolon or tab) is the most frequent one of the header line.
"""

import csv
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from gcl_toolkit.errors import DataError, first_line

FORMATS = (".parquet", ".csv", ".tsv", ".jsonl")
FIRST_LINE = {".csv": 2, ".tsv": 2, ".jsonl": 1}
"""Where the first row of a text file is, counted from 1, if no value holds a line break."""
BLOCK = 1 << 26
"""Bytes of a CSV file that are parsed at a time; a row must fit."""
ROWS = 1 << 16
NESTED = pa.list_(pa.string())
"""Type of a JSONL column that holds a list or an object in some row; its values are not read."""


class Opened(NamedTuple):
    """A table file: the names of all columns, and the chosen columns in batches of rows, in order."""

    names: list[str]
    schema: pa.Schema
    batches: Iterable[pa.RecordBatch]


def place(path: str | Path, row: int, kind: str = "") -> str:
    """Where a row (from 0) of a table is in its file: "t.csv line 2"; "t.parquet row 1", from 1. kind: as below."""
    start = FIRST_LINE.get(kind or Path(path).suffix.lower())
    return f"{path} row {row + 1}" if start is None else f"{path} line {row + start}"


def read_file(
    path: str | Path, columns: Collection[str] | None = None, header: Sequence[str] = (), kind: str = ""
) -> pa.Table:
    """A table file in memory; arguments as in `open_file`."""
    opened = open_file(path, columns, header, kind)
    return pa.Table.from_batches(opened.batches, opened.schema)


def open_file(
    path: str | Path, columns: Collection[str] | None = None, header: Sequence[str] = (), kind: str = ""
) -> Opened:
    """A table file, read while its batches are consumed (JSONL at once).

    columns: those to read, as far as the file has them; default all. header: the column names of a CSV file that has no
    header line. kind: one of `FORMATS`, if the file's name doesn't end with it.
    """
    path = Path(path)
    kind = kind or path.suffix.lower()
    if kind not in FORMATS:
        raise DataError(f"{path}: the file ending is {path.suffix!r}; one of {', '.join(FORMATS)} is expected")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with _errors_of(path, kind):
        if kind == ".parquet":
            opened = _open_parquet(path, columns)
        elif kind == ".jsonl":
            table = json_table(entry for _, entry in json_lines(path))
            chosen = table.select([name for name in table.column_names if columns is None or name in columns])
            opened = Opened(table.column_names, chosen.schema, chosen.to_batches())
        else:
            opened = _open_csv(path, "\t" if kind == ".tsv" else ",", columns, header)
    return opened._replace(batches=_guarded(path, kind, opened.batches))


def _guarded(path: Path, kind: str, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    with _errors_of(path, kind):
        yield from batches


@contextmanager
def _errors_of(path: Path, kind: str = "") -> Iterator[None]:
    """Errors of libraries as one line that names the file, and the line where its text isn't UTF-8."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError, csv.Error) as error:
        if kind != ".parquet" and (line := _line_not_utf8(path)):
            raise DataError(f"{path} line {line}: the text is not UTF-8; save the file as UTF-8") from None
        reason = first_line(error)
        cure = "quote values that contain a separator" if "CSV parse error" in reason else "is the file complete?"
        raise DataError(f"{path}: can't be read as {kind[1:] or 'text'} ({reason}); {cure}") from None


def _line_not_utf8(path: Path) -> int | None:
    with suppress(OSError), path.open("rb") as file:
        bad = (at for at, line in enumerate(file, start=1) if line.decode(errors="ignore").encode() != line)
        return next(bad, None)
    return None


def check_columns(have: Collection[str], needed: Iterable[str], where: object) -> None:
    """Raise DataError if a table lacks a column; where: the table's name in the message."""
    if missing := [name for name in needed if name not in have]:
        raise DataError(f"{where}: column {', '.join(map(repr, missing))} is missing; it has {', '.join(have)}")


def _check_names(path: Path, names: list[str]) -> None:
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise DataError(f"{path}: column {repeated[0]!r} appears twice; column names must be unique")


def _open_parquet(path: Path, columns: Collection[str] | None) -> Opened:
    file = parquet.ParquetFile(path)
    names = file.schema_arrow.names
    _check_names(path, names)
    chosen = [name for name in names if columns is None or name in columns]
    schema = pa.schema([file.schema_arrow.field(name) for name in chosen])
    return Opened(names, schema, file.iter_batches(ROWS, columns=chosen))


def _open_csv(path: Path, delimiter: str, columns: Collection[str] | None, header: Sequence[str]) -> Opened:
    names, delimiter = _header(path, delimiter)
    names = [*header] or names
    _check_names(path, names)
    chosen = [name for name in names if columns is None or name in columns]
    schema = pa.schema(dict.fromkeys(chosen, pa.string()))
    if not chosen:
        return Opened(names, schema, [])
    reader = arrow_csv.open_csv(
        path,
        arrow_csv.ReadOptions(block_size=BLOCK, column_names=[*header] or None),
        arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        arrow_csv.ConvertOptions(column_types=schema, include_columns=chosen),
    )
    return Opened(names, schema, reader)


def _header(path: Path, delimiter: str) -> tuple[list[str], str]:
    """The column names, and the separator that appears most often in the first line outside quotes."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        line = re.sub('"[^"]*"', "", file.readline())
        delimiter = max(dict.fromkeys((delimiter, ",", ";", "\t")), key=line.count)
        file.seek(0)
        names = next(csv.reader(file, delimiter=delimiter), None)
    if not names:
        raise DataError(f"{path}: the first line is empty; a header line with column names is expected")
    return names, delimiter


def json_lines(path: Path) -> Iterator[tuple[int, dict]]:
    """(line number from 1, object) of every line of a JSONL file that isn't empty; numbers are text, as written."""
    decoder = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=lambda name: name.replace("NaN", ""))
    for number, line in lines(path):
        try:
            entry = decoder.decode(line)
        except ValueError as error:
            raise DataError(f"{path} line {number}: not JSON ({error}); is the file complete?") from None
        if not isinstance(entry, dict):
            raise DataError(f"{path} line {number}: {line[:60]!r}; one JSON object on each line is expected")
        yield number, entry


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of every line of a text file that isn't empty."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with _errors_of(path), path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line.rstrip("\r\n")


def json_table(entries: Iterable[dict]) -> pa.Table:
    """Objects as a table of text columns; a key that an object lacks is null."""
    entries, parts, nested = iter(entries), [], set[str]()
    while chunk := [*islice(entries, ROWS)]:
        columns = {}
        for name in dict.fromkeys(chain.from_iterable(chunk)):
            values = [_json_text(entry.get(name)) for entry in chunk]
            if any(isinstance(value, list | dict) for value in values):
                nested.add(name)
                values = [None] * len(chunk)
            columns[name] = pa.array(values, pa.string())
        parts.append(pa.table(columns))
    table = pa.concat_tables(parts, promote_options="default") if parts else pa.table({})
    for name in nested:
        table = table.set_column(table.column_names.index(name), name, pa.nulls(table.num_rows, NESTED))
    return table


def _json_text(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:  # an image, as Hugging Face datasets write it
        return value.get("path")
    return value
