"""Vectors in files of others: JSONL, a table with a column of lists, .npy or .safetensors with a list of ids."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gcl_toolkit.data.columns import as_text, as_vectors, is_numbers, number, vector_faults, vector_parts
from gcl_toolkit.data.tabular import json_lines, lines, read_file
from gcl_toolkit.errors import DataError, counted, first_line

IDS = ("id", "product_id", "query_id", "custom_id", "_id")
"""Names under which files have their ids."""


def read_vectors(path: str | Path) -> tuple[pa.ChunkedArray, np.ndarray, str]:
    """(ids, vectors N x D as float32, a note on equal vectors or "") of a file; raises DataError naming the row.

    .jsonl: an id and, at any depth, one list of numbers in each line (OpenAI's batches, Cohere, Marqo). .parquet: an id
    and a column of lists. .npy, .safetensors (one matrix): N x D with the ids in FILE.ids.txt, one on each line.
    """
    path = Path(path)
    readers = {".jsonl": _json, ".parquet": _table, ".npy": _matrix, ".safetensors": _matrix}
    if path.suffix not in readers:
        raise DataError(f"{path}: the file ending is {path.suffix!r}; one of {', '.join(readers)} is expected")
    ids, lists = readers[path.suffix](path)
    try:
        column = as_vectors(lists)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    for fault in vector_faults(column, f"{path}: row"):
        raise DataError(fault)
    counts = ids.value_counts()
    if len(counts) < len(ids):
        most = max(counts.to_pylist(), key=lambda entry: entry["counts"])
        raise DataError(f"{path}: id {most['values']!r} has {most['counts']} vectors; one for each id is expected")
    if lists.null_count:
        raise DataError(f"{path}: {counted(lists.null_count, 'row')} without a vector; leave them out of the file")
    vectors = np.concatenate(vector_parts(column)).astype(np.float32)
    _, first, count = np.unique(vectors @ np.random.default_rng(0).normal(size=vectors.shape[1]), True, False, True)
    again = f"{(count - 1).sum():,} of {len(vectors):,} vectors are equal to another, such as that of "
    return ids, vectors, f"{again}{ids[int(first[count.argmax()])].as_py()!r}" if (count > 1).any() else ""


def _json(path: Path) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    ids, vectors = [], []
    for at, entry in json_lines(path):
        key, found = next((name for name in IDS if name in entry), None), [*_lists(entry)]
        if key is None or len(found) != 1:
            raise DataError(
                f"{path} line {at}: {', '.join(entry)}; an id ({', '.join(IDS)}) and one list of numbers are "
                f"expected, {len(found)} lists are there"
            )
        ids.append(str(entry[key]))
        vectors.append(np.array(found[0], np.float32))  # numbers are text here
    return pa.chunked_array([pa.array(ids, pa.string())]), pa.chunked_array([pa.array(vectors, pa.list_(pa.float32()))])


def _lists(value: Any) -> Iterator[list]:
    """The lists of numbers in a JSON value."""
    if isinstance(value, list) and value and all(isinstance(one, str) and not math.isnan(number(one)) for one in value):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _lists(part)


def _table(path: Path) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    table = read_file(path)
    key = next((name for name in IDS if name in table.column_names), None)
    lists = [name for name in table.column_names if is_numbers(table[name])]
    if key is None or len(lists) != 1:
        names = ", ".join(table.column_names)
        raise DataError(f"{path}: columns {names}; an id ({', '.join(IDS)}) and one column of lists are expected")
    return as_text(table[key]).cast(pa.string()), table[lists[0]]


def _matrix(path: Path) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    names = path.with_name(f"{path.name}.ids.txt")
    ids = [line for _, line in lines(names)]
    try:
        if path.suffix == ".npy":
            matrix = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            from safetensors.numpy import load_file

            (matrix,) = load_file(path).values()
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: one matrix of numbers is expected ({first_line(error)})") from None
    if matrix.ndim != 2 or len(matrix) != len(ids):
        shape = " x ".join(map(str, matrix.shape))
        raise DataError(
            f"{path}: it has {shape} numbers and {names.name} has {len(ids):,} ids; a row for each id is expected"
        )
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).ravel()), matrix.shape[1])
    return pa.chunked_array([pa.array(ids, pa.string())]), pa.chunked_array([vectors])
