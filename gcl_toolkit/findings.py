"""Findings: what is wrong with three tables, before they may be RankedData."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DIVISIONS = ("dev", "test")


def findings(queries: pa.Table, corpus: pa.Table, qrels: pa.Table) -> list[str]:
    """Everything wrong with three tables: one line a kind of mistake, with table, row (from 0) and value."""
    return [
        *_bad_ids(queries, "queries", "query_id"),
        *_bad_ids(corpus, "corpus", "product_id"),
        *_bad_ids(qrels, "qrels", "query_id", known=queries, known_as="queries"),
        *_bad_ids(qrels, "qrels", "product_id", known=corpus, known_as="corpus"),
        *bad_choices(queries, "queries", "division", (*DIVISIONS, None)),
        *bad_scores(qrels),
        *_repeated_pairs(qrels),
    ]


def present(column: pa.ChunkedArray) -> np.ndarray:
    """Where a field has a value, as bool; missing are null, NaN, "", white space, an image without bytes and path."""
    if pa.types.is_struct(column.type):
        parts = [pc.struct_field(column, name) for name in ("bytes", "path")]
        filled = pc.or_(*(pc.fill_null(pc.greater(pc.binary_length(part), 0), False) for part in parts))
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
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
    """A column as float64; NaN where there is no number."""
    try:
        values = pc.cast(column, pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        values = pa.array([float(v) if _is_number(v) else None for v in column.to_pylist()], pa.float64())
    return pc.fill_null(values, np.nan).to_numpy()


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def _absent(table: pa.Table, name: str, column: str) -> str:
    return f"{name}: column {column!r} is missing; it has {', '.join(table.column_names)}"


def _bad_ids(
    table: pa.Table, name: str, column: str, known: pa.Table | None = None, known_as: str = ""
) -> Iterator[str]:
    if column not in table.column_names:
        yield _absent(table, name, column)
        return
    ids = pc.cast(table[column], pa.string())
    empty = ~present(ids)
    if empty.any():
        yield f"{name} row {empty.argmax()}: {column} is empty ({empty.sum():,} such rows); every row needs an id"
    if known is None:
        yield from _duplicates(ids, name, column)
    elif column in known.column_names:
        value_set = pc.cast(known[column], pa.string()).combine_chunks()
        strange = ~pc.is_in(ids, value_set=value_set).to_numpy() & ~empty
        if strange.any():
            row = int(strange.argmax())
            yield (
                f"{name} row {row}: {column} {ids[row].as_py()!r} is not in the {known_as} "
                f"({strange.sum():,} such rows); add it there or drop the pair"
            )


def _duplicates(ids: pa.ChunkedArray, name: str, column: str) -> Iterator[str]:
    distinct = pc.count_distinct(ids).as_py()
    if distinct == len(ids) - ids.null_count:
        return
    seen: dict[str, int] = {}
    for row, value in enumerate(ids.to_pylist()):
        if value in seen and value is not None:
            yield (
                f"{name} row {row}: {column} {value!r} stands already in row {seen[value]}; ids must be unique "
                f"({len(ids) - ids.null_count - distinct:,} such rows)"
            )
            return
        seen[value] = row


def bad_choices(table: pa.Table, name: str, column: str, known: Sequence[str | None]) -> Iterator[str]:
    """Values of a column, if it is there, that are none of `known`; None among them: a row may have none."""
    if column not in table.column_names:
        return
    values = pc.cast(table[column], pa.string())
    strange = ~pc.is_in(values, value_set=pa.array(known, pa.string())).to_numpy()
    if strange.any():
        row, expected = int(strange.argmax()), ", ".join(filter(None, known))
        yield (
            f"{name} row {row}: {column} is {table[column][row].as_py()!r}; one of {expected} is expected "
            f"({strange.sum():,} such rows)"
        )


def bad_scores(qrels: pa.Table, column: str = "score") -> Iterator[str]:
    if column not in qrels.column_names:
        yield _absent(qrels, "qrels", column)
        return
    score, raw = numbers(qrels[column]), qrels[column]
    empty = ~present(raw)
    for bad in (empty, np.isnan(score) & ~empty, np.isinf(score), np.isfinite(score) & (score < 0)):
        if bad.any():
            row = int(bad.argmax())
            yield (
                f"qrels row {row}{_pair(qrels, row)}: {column} is {raw[row].as_py()!r}; "
                f"a finite number >= 0 is expected ({bad.sum():,} such rows)"
            )


def _pair(qrels: pa.Table, row: int) -> str:
    if not {"query_id", "product_id"} <= set(qrels.column_names):
        return ""
    return f" (query {str(qrels['query_id'][row])!r}, product {str(qrels['product_id'][row])!r})"


def _repeated_pairs(qrels: pa.Table) -> Iterator[str]:
    if not {"query_id", "product_id", "score"} <= set(qrels.column_names):
        return
    query, product = codes(qrels["query_id"]), codes(qrels["product_id"])
    score = numbers(qrels["score"])
    key = query * (product.max(initial=0) + 1) + product
    order = np.argsort(key, kind="stable")
    same = np.flatnonzero(np.diff(key[order]) == 0)
    conflicts = score[order[same]] != score[order[same + 1]]
    for kind, at in (("two scores", same[conflicts]), ("the same score twice", same[~conflicts])):
        if len(at):
            first, second = order[at[0]], order[at[0] + 1]
            values = f"{score[first]:g} and {score[second]:g}"
            yield (
                f"qrels rows {first} and {second}{_pair(qrels, first)}: {kind}, {values} "
                f"({len(at):,} such pairs); keep one row a pair"
            )
