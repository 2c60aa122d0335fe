"""Findings: what is wrong with the three tables of RankedData."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gcl_toolkit.data.columns import (
    as_text,
    as_vectors,
    codes,
    is_image,
    is_numbers,
    is_vector,
    numbers,
    present,
    vector_faults,
)
from gcl_toolkit.errors import counted

DIVISIONS = ("dev", "test")
NOT_FIELDS = ("query_id", "product_id", "division")
"""Columns of queries and corpus that are not fields."""
LEAVE_OUT = "or leave out what can't be trained on, with gcl data check --quarantine FILE"


def findings(queries: pa.Table, corpus: pa.Table, qrels: pa.Table) -> list[str]:
    """Everything wrong with three tables: one line for each kind of mistake, with table, row (from 0) and value."""
    return [
        *_bad_ids(queries, "queries", "query_id"),
        *_bad_ids(corpus, "corpus", "product_id"),
        *_bad_ids(qrels, "qrels", "query_id", known=queries, known_as="queries"),
        *_bad_ids(qrels, "qrels", "product_id", known=corpus, known_as="corpus"),
        *bad_choices(queries, "queries", "division", (*DIVISIONS, None)),
        *_bad_fields(queries, "queries"),
        *_bad_fields(corpus, "corpus"),
        *bad_scores(qrels),
        *_repeated_pairs(qrels),
    ]


def has_columns(table: pa.Table, *names: str) -> bool:
    """Whether a table has these columns, and as text or numbers."""
    return set(names) <= set(table.column_names) and not any(field_fault(table[name]) for name in names)


def field_fault(column: pa.ChunkedArray) -> str | None:
    """Why a column can't be a field; None if it can be read as text, images or vectors."""
    try:
        if is_numbers(column):
            return None if is_vector(column) else as_vectors(column) and None
        return None if is_image(column) else as_text(column) and None
    except pa.ArrowException:
        what = "bytes that are not UTF-8 text" if "binary" in str(column.type) else f"values of type {column.type}"
        return f"it holds {what}; text, numbers, images or vectors are expected"
    except ValueError as error:
        return str(error)


def _absent(table: pa.Table, name: str, column: str) -> str:
    return f"{name}: column {column!r} is missing; it has {', '.join(table.column_names)}"


def _bad_fields(table: pa.Table, name: str) -> Iterator[str]:
    for column in table.column_names:
        if column not in NOT_FIELDS and (fault := field_fault(table[column])):
            yield f"{name}: column {column!r} can't be a field: {fault}; drop or convert it"
        elif column not in NOT_FIELDS and is_numbers(table[column]):
            yield from vector_faults(as_vectors(table[column]), f"{name}: {column} of row")


def _bad_ids(
    table: pa.Table, name: str, column: str, known: pa.Table | None = None, known_as: str = ""
) -> Iterator[str]:
    if column not in table.column_names:
        yield _absent(table, name, column)
        return
    if field_fault(table[column]) or is_image(table[column]):
        yield f"{name}: column {column!r} has the type {table[column].type}; text or integers are expected as ids"
        return
    ids = as_text(table[column])
    empty = ~present(ids)
    if empty.any():
        such = counted(empty.sum(), "such row")
        yield f"{name} row {empty.argmax()}: {column} is empty ({such}); every row needs an id"
    if known is None:
        yield from _duplicates(ids, name, column)
    elif column in known.column_names and not field_fault(known[column]):
        known_ids = as_text(known[column]).cast(ids.type).combine_chunks()
        unmatched = ~pc.is_in(ids, value_set=known_ids).to_numpy() & ~empty
        if unmatched.any():
            row = int(unmatched.argmax())
            yield (
                f"{name} row {row}: {column} {ids[row].as_py()!r} is not in the {known_as} "
                f"({counted(unmatched.sum(), 'such row')}); add it there or drop the pair"
            )


def _duplicates(ids: pa.ChunkedArray, name: str, column: str) -> Iterator[str]:
    code = codes(ids)
    first_row = np.full(code.max(initial=-1) + 1, len(code))
    np.minimum.at(first_row, code, np.arange(len(code)))
    again = np.flatnonzero((first_row[code] < np.arange(len(code))) & ids.is_valid().to_numpy())
    if len(again):
        yield (
            f"{name} rows {first_row[code[again[0]]]} and {again[0]}: {column} {ids[int(again[0])].as_py()!r} twice; "
            f"ids must be unique ({counted(len(again), 'such row')})"
        )


def bad_choices(table: pa.Table, name: str, column: str, known: Sequence[str | None]) -> Iterator[str]:
    """Values of a column, if the table has it, that are not among `known`; None in `known` allows missing values."""
    if column not in table.column_names or field_fault(table[column]):
        return
    unexpected = ~pc.is_in(as_text(table[column]).cast(pa.string()), value_set=pa.array(known, pa.string())).to_numpy()
    if unexpected.any():
        row, expected = int(unexpected.argmax()), ", ".join(filter(None, known))
        yield (
            f"{name} row {row}: {column} is {table[column][row].as_py()!r}; one of {expected} is expected "
            f"({counted(unexpected.sum(), 'such row')})"
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
                f"a finite number >= 0 is expected ({counted(bad.sum(), 'such row')}); correct it, {LEAVE_OUT}"
            )


def _pair(qrels: pa.Table, row: int) -> str:
    if not {"query_id", "product_id"} <= set(qrels.column_names):
        return ""
    return f" (query {str(qrels['query_id'][row])!r}, product {str(qrels['product_id'][row])!r})"


def pair_codes(qrels: pa.Table) -> np.ndarray:
    """An int64 for each row of the qrels, the same for the same query and product."""
    product = codes(as_text(qrels["product_id"]))
    return codes(as_text(qrels["query_id"])) * (product.max(initial=0) + 1) + product


def _repeated_pairs(qrels: pa.Table) -> Iterator[str]:
    if not has_columns(qrels, "query_id", "product_id") or "score" not in qrels.column_names:
        return
    pair, score = pair_codes(qrels), numbers(qrels["score"])
    order = np.argsort(pair, kind="stable")
    same = np.flatnonzero(np.diff(pair[order]) == 0)
    conflicts = score[order[same]] != score[order[same + 1]]
    for kind, at in (("two scores", same[conflicts]), ("the same score twice", same[~conflicts])):
        if len(at):
            first, second = order[at[0]], order[at[0] + 1]
            values = f"{score[first]:g} and {score[second]:g}"
            yield (
                f"qrels rows {first} and {second}{_pair(qrels, first)}: {kind}, {values} "
                f"({counted(len(at), 'such pair')}); keep one row for each pair, {LEAVE_OUT}"
            )
