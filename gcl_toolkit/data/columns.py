"""Arrow columns: which values are present, and columns as text, numbers, images or vectors."""

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gcl_toolkit.errors import counted

IMAGE = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
"""Arrow type of an image column: encoded bytes, or the path of a file, or null. Decoded late.

Read single rows with `column[row].as_py()`: `column.take(rows)` copies the entire column first.
"""


def is_image(column: pa.ChunkedArray) -> bool:
    """Whether a column holds images, structs of {bytes, path}."""
    return pa.types.is_struct(column.type) and {field.name for field in column.type} == {"bytes", "path"}


def is_vector(column: pa.ChunkedArray) -> bool:
    """Whether a column holds vectors: lists of equal length of float16 or float32."""
    return pa.types.is_fixed_size_list(column.type) and column.type.value_type in (pa.float16(), pa.float32())


def is_numbers(column: pa.ChunkedArray) -> bool:
    """Whether a column holds lists of numbers, vectors or not."""
    kind = column.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


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
        values = pa.array(map(number, column.to_pylist()), pa.float64())
    return pc.fill_null(values, np.nan).to_numpy()


def number(value: object) -> float:
    """A value as float; NaN if it is not a number."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


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
    data = path = pa.chunked_array([pa.nulls(len(column))])
    if pa.types.is_struct(column.type):
        known = [field.name for field in column.type if field.name in ("bytes", "path")] or ["bytes"]
        data, path = (pc.struct_field(column, name) if name in known else data for name in ("bytes", "path"))
        column = _images(data, path)
    elif is_text(column):
        path = pc.cast(column, pa.string())
        relative = pc.invert(pc.match_substring_regex(path, r"^(/|[A-Za-z]:\\|[a-z0-9]+://)"))
        path = pc.if_else(relative, pc.binary_join_element_wise(f"{folder}/", path, ""), path)
    else:
        data = column
    return _images(data, path, mask=pa.array(~present(column)))


def _images(data: pa.ChunkedArray, path: pa.ChunkedArray, mask: pa.Array | None = None) -> pa.ChunkedArray:
    parts = [pc.cast(part, field.type).combine_chunks() for part, field in zip((data, path), IMAGE, strict=True)]
    return pa.chunked_array([pa.StructArray.from_arrays(parts, fields=[*IMAGE], mask=mask)], IMAGE)


def as_vectors(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of lists of numbers as fixed-size lists of float32 (float16 stays); raises ValueError saying why not."""
    kind = column.type.value_type
    if not pa.types.is_floating(kind):
        raise ValueError(
            f"it holds lists of {kind}; multiply quantized vectors by their scale and store them as float32"
        )
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy()
    filled = lengths >= 0
    if not filled.any():
        raise ValueError("it holds no vector")
    first = int(filled.argmax())
    differs = filled & (lengths != lengths[first])
    if differs.any() or lengths[first] == 0:
        row = int(differs.argmax()) if differs.any() else first
        raise ValueError(
            f"row {row} has {lengths[row]} numbers, row {first} has {lengths[first]}; equal dimensions are expected"
        )
    number = kind if pa.types.is_float16(kind) else pa.float32()
    return column.cast(pa.list_(number, int(lengths[first])))


def vector_parts(column: pa.ChunkedArray) -> list[np.ndarray]:
    """The numbers of a vector column, rows x D for each chunk, not copied; those of missing rows mean nothing."""
    size = column.type.list_size
    arrays = (chunk.values.slice(chunk.offset * size, len(chunk) * size) for chunk in column.chunks)
    return [numbers.to_numpy(zero_copy_only=False).reshape(-1, size) for numbers in arrays]


def vector_faults(column: pa.ChunkedArray, key: str) -> Iterator[str]:
    """What is wrong with the numbers of a vector column, a line for each kind; key: what a row is called."""
    bad: dict[str, list[int]] = {"NaN or infinite numbers": [], "only zeros": []}
    start = 0
    for chunk, numbers in zip(column.chunks, vector_parts(column), strict=True):
        valid = chunk.is_valid().to_numpy(zero_copy_only=False)
        for at in range(0, len(numbers), 1 << 16):
            block = numbers[at : at + (1 << 16)].astype(np.float32)
            squares, here = np.einsum("nd,nd->n", block, block), valid[at : at + (1 << 16)]
            for kind, found in zip(bad, (~np.isfinite(squares), squares == 0), strict=True):
                bad[kind] += (np.flatnonzero(found & here) + start + at).tolist()
        start += len(numbers)
    for kind, rows in bad.items():
        if rows:
            yield f"{key} {rows[0]} has {kind} ({counted(len(rows), 'such row')}); embed it again, or leave it null"


def put(table: pa.Table, name: str, column: pa.ChunkedArray | pa.Array) -> pa.Table:
    """The table with a column replaced, or appended if it has none of this name."""
    at = table.schema.get_field_index(name)
    return table.append_column(name, column) if at < 0 else table.set_column(at, name, column)
