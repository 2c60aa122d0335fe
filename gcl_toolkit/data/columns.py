"""Arrow columns: which values are present, and columns as text, numbers or images."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

IMAGE = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
"""Arrow type of an image column: encoded bytes, or the path of a file, or null. Decoded late.

Read single rows with `column[row].as_py()`: `column.take(rows)` copies the entire column first.
"""


def is_image(column: pa.ChunkedArray) -> bool:
    """Whether a column holds images, structs of {bytes, path}."""
    return pa.types.is_struct(column.type) and {field.name for field in column.type} == {"bytes", "path"}


def is_text(column: pa.ChunkedArray) -> bool:
    return pa.types.is_string(column.type) or pa.types.is_large_string(column.type)


def present(column: pa.ChunkedArray) -> np.ndarray:
    """Where a field has a value, as bool; missing are null, NaN, "", white space, an image without bytes and path."""
    if is_image(column):
        parts = [pc.struct_field(column, name) for name in ("bytes", "path")]
        filled = pc.or_(*(pc.fill_null(pc.greater(pc.binary_length(part), 0), False) for part in parts))
    elif is_text(column):
        filled = pc.greater(pc.binary_length(pc.utf8_trim_whitespace(column)), 0)
    elif pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        filled = pc.greater(pc.binary_length(column), 0)
    else:
        filled = pc.invert(pc.is_null(column, nan_is_null=True))
    return pc.fill_null(filled, False).to_numpy()


def codes(column: pa.ChunkedArray) -> np.ndarray:
    """An int64 for each row, the same for equal values, numbered by first appearance."""
    return pc.index_in(column, value_set=pc.unique(column)).to_numpy().astype(np.int64)


def numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column as float64; NaN where a value is not a number."""
    try:
        values = pc.cast(column, pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        values = pa.array(map(_number, column.to_pylist()), pa.float64())
    return pc.fill_null(values, np.nan).to_numpy()


def _number(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids and fields as text, null where missing; integers that were stored as floats lose their ".0".

    Raises pa.ArrowException for lists, objects and bytes that are not UTF-8.
    """
    kind = column.type
    if is_text(column):
        return column
    if pa.types.is_dictionary(kind):
        return as_text(pc.cast(column, kind.value_type))
    if pa.types.is_floating(kind):
        column = pc.cast(column, pa.float32()) if pa.types.is_float16(kind) else column
        column = pc.if_else(pc.is_nan(column), None, column)
        with suppress(pa.ArrowInvalid):  # fractions, infinity or more than 64 bits
            column = pc.cast(column, pa.int64())
    return pc.cast(column, pa.string())


def as_images(column: pa.ChunkedArray, folder: Path) -> pa.ChunkedArray:
    """A column of paths (relative to `folder`), of bytes or of {bytes, path} as `IMAGE`; missing ones are null.

    Raises pa.ArrowException for other types.
    """
    data, path = pa.nulls(len(column)), pa.nulls(len(column))
    if pa.types.is_struct(column.type):
        known = [field.name for field in column.type if field.name in ("bytes", "path")] or ["bytes"]
        data, path = (
            pc.cast(pc.struct_field(column, field.name) if field.name in known else data, field.type) for field in IMAGE
        )
        column = pa.chunked_array([pa.StructArray.from_arrays(map(_combined, (data, path)), fields=[*IMAGE])])
    elif is_text(column):
        path = pc.cast(column, pa.string())
        relative = pc.invert(pc.match_substring_regex(path, r"^(/|[A-Za-z]:\\|[a-z0-9]+://)"))
        path = pc.if_else(relative, pc.binary_join_element_wise(f"{folder}/", path, ""), path)
    else:
        data = column
    missing = pa.array(~present(column))
    parts = (_combined(pc.cast(part, field.type)) for part, field in zip((data, path), IMAGE, strict=True))
    return pa.chunked_array([pa.StructArray.from_arrays([*parts], fields=[*IMAGE], mask=missing)], IMAGE)


def _combined(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def put(table: pa.Table, name: str, column: pa.ChunkedArray | pa.Array) -> pa.Table:
    """The table with a column replaced, or appended if it has none of this name."""
    at = table.schema.get_field_index(name)
    return table.append_column(name, column) if at < 0 else table.set_column(at, name, column)
