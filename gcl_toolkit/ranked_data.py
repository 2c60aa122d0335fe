"""RankedData: queries, corpus and scored pairs (qrels), Arrow-backed and checked when made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gcl_toolkit.errors import DataError

SPLITS = ("in_domain", "novel_query", "novel_document", "zero_shot")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""Arrow type of an image column: encoded bytes, or the path of a file, or null. Decoded late."""

_NOT_FIELDS = {"query_id", "product_id", "division"}


class Pairs(NamedTuple):
    """The qrels as row numbers: `query[i]` and `product[i]` index the two tables, `score[i]` is a float64."""

    query: np.ndarray
    product: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class RankedData:
    """Queries, corpus and the scores of known pairs.

    queries: `query_id` (string, unique), one column a left field, optionally `division` ("dev" or "test").
    corpus:  `product_id` (string, unique), one column a right field; an image column has the type `IMAGE`.
    qrels:   `query_id`, `product_id`, `score` (float64, finite, >= 0; larger is better), each pair once.
    Further columns are kept. Raises DataError naming the table, the row and the value when this doesn't hold.
    """

    queries: pa.Table
    corpus: pa.Table
    qrels: pa.Table
    name: str = "data"
    card: dict = field(default_factory=dict, compare=False)

    def __post_init__(self):
        set_ = object.__setattr__
        set_(self, "queries", _with_string_id(self.queries, "queries", "query_id"))
        set_(self, "corpus", _with_string_id(self.corpus, "corpus", "product_id"))
        qrels = _with_string_id(_with_string_id(self.qrels, "qrels", "query_id"), "qrels", "product_id")
        set_(self, "qrels", _with_float_score(qrels))
        for finding in _findings(self):
            raise DataError(f"{self.name}: {finding}")

    def __repr__(self) -> str:
        fields = f"queries by {', '.join(self.query_fields)}; products by {', '.join(self.corpus_fields)}"
        return (
            f"RankedData({self.name}: {self.queries.num_rows:,} queries, {self.corpus.num_rows:,} products, "
            f"{self.qrels.num_rows:,} scored pairs; {fields})"
        )

    @property
    def query_ids(self) -> np.ndarray:
        return self.queries["query_id"].to_numpy()

    @property
    def product_ids(self) -> np.ndarray:
        return self.corpus["product_id"].to_numpy()

    @property
    def query_fields(self) -> list[str]:
        return [c for c in self.queries.column_names if c not in _NOT_FIELDS]

    @property
    def corpus_fields(self) -> list[str]:
        return [c for c in self.corpus.column_names if c not in _NOT_FIELDS]

    @cached_property
    def pairs(self) -> Pairs:
        """The qrels as row numbers into `queries` and `corpus`."""
        return Pairs(
            _rows_of(self.qrels["query_id"], self.queries["query_id"]),
            _rows_of(self.qrels["product_id"], self.corpus["product_id"]),
            self.qrels["score"].to_numpy(),
        )

    def only(self, division: str) -> RankedData:
        """The queries of one division ("dev" or "test") with their qrels; the corpus stays whole."""
        if division == "all":
            return self
        if "division" not in self.queries.column_names:
            raise DataError(f"{self.name}: the queries have no column 'division'; make one with divide(data)")
        return self.take_queries(np.flatnonzero(pc.equal(self.queries["division"], division).to_numpy()))

    def take_queries(self, rows: np.ndarray) -> RankedData:
        """The queries at `rows`, in that order, with all their qrels; the corpus stays whole."""
        queries = self.queries.take(pa.array(rows))
        kept = pc.is_in(self.qrels["query_id"], value_set=queries["query_id"].combine_chunks())
        return replace(self, queries=queries, qrels=self.qrels.filter(kept))

    def sample_queries(self, count: int, seed: int = 0) -> RankedData:
        """At most `count` queries, drawn uniformly, each with its full spread of scores; the corpus stays whole."""
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.permutation(self.queries.num_rows)[:count])
        return self.take_queries(chosen)


def divide(data: RankedData, seed: int = 0) -> RankedData:
    """Mark each query "dev" or "test", half and half, by a seeded hash of its id (the same in every split)."""
    half = ["dev" if _hash(f"{seed}/{q}") % 2 else "test" for q in data.queries["query_id"].to_pylist()]
    queries = data.queries
    if "division" in queries.column_names:
        queries = queries.drop_columns(["division"])
    return replace(data, queries=queries.append_column("division", pa.array(half, pa.string())))


def four_way_split(
    data: RankedData, *, seed: int = 0, train_queries: float = 0.8, train_documents: float = 0.5
) -> dict[str, RankedData]:
    """Split queries and documents, as MarqoGS-10M does, into the four `SPLITS`.

    in_domain: training queries x training documents; novel_query: held-out queries x training documents;
    novel_document: training queries x held-out documents; zero_shot: both held out. Every split has a whole half
    of the corpus; a query without a scored product in that half is left out of the split. Queries are divided into
    "dev" and "test" for choosing settings and for reporting.
    """
    rng = np.random.default_rng(seed)
    query_is_novel = _held_out(data.queries.num_rows, train_queries, rng)
    product_is_novel = _held_out(data.corpus.num_rows, train_documents, rng)
    pair_query, pair_product, _ = data.pairs
    divided = divide(data, seed)
    splits = {}
    for name, novel_query, novel_product in (
        ("in_domain", False, False),
        ("novel_query", True, False),
        ("novel_document", False, True),
        ("zero_shot", True, True),
    ):
        in_split = (query_is_novel[pair_query] == novel_query) & (product_is_novel[pair_product] == novel_product)
        splits[name] = RankedData(
            divided.queries.take(pa.array(np.unique(pair_query[in_split]))),
            data.corpus.filter(pa.array(product_is_novel == novel_product)),
            data.qrels.filter(pa.array(in_split)),
            name=name,
            card=data.card,
        )
    return splits


def leaks(splits: dict[str, RankedData]) -> list[str]:
    """What the training split (in_domain) shares with the splits that hold something out; empty when clean.

    Checked: shared ids, the same normalised query text, the same image bytes or path (by hash). The same *title* on
    two products is common in shops and not counted.
    """
    train = splits["in_domain"]
    found: list[str] = []
    for name, side in (("novel_query", "queries"), ("novel_document", "corpus"), ("zero_shot", "both")):
        if name not in splits:
            continue
        if side in ("queries", "both"):
            found += _shared(train.queries, splits[name].queries, "query_id", name)
        if side in ("corpus", "both"):
            found += _shared(train.corpus, splits[name].corpus, "product_id", name)
    return found


def is_image(column: pa.ChunkedArray) -> bool:
    """Whether a column holds images (type `IMAGE`) rather than text."""
    return pa.types.is_struct(column.type)


def normalise_text(text: str) -> str:
    """Lower case, single spaces: what makes two queries the same for the leak audit."""
    return " ".join(text.lower().split())


# -- checks ------------------------------------------------------------------------------------------------------------


def _findings(data: RankedData) -> Iterator[str]:
    yield from _duplicates(data.queries["query_id"], "queries", "query_id")
    yield from _duplicates(data.corpus["product_id"], "corpus", "product_id")
    yield from _unknown_ids(data.qrels["query_id"], data.queries["query_id"], "query_id", "queries")
    yield from _unknown_ids(data.qrels["product_id"], data.corpus["product_id"], "product_id", "corpus")
    yield from _bad_scores(data.qrels)
    yield from _repeated_pairs(data)


def _with_string_id(table: pa.Table, name: str, column: str) -> pa.Table:
    if column not in table.column_names:
        raise DataError(f"{name}: column {column!r} is missing; it has {', '.join(table.column_names)}")
    ids = table[column]
    if ids.null_count:
        row = int(np.flatnonzero(pc.is_null(ids).to_numpy())[0])
        raise DataError(f"{name} row {row}: {column} is empty; every row needs an id")
    if ids.type == pa.string():
        return table
    return table.set_column(table.column_names.index(column), column, pc.cast(ids, pa.string()))


def _with_float_score(qrels: pa.Table) -> pa.Table:
    if "score" not in qrels.column_names:
        raise DataError(f"qrels: column 'score' is missing; it has {', '.join(qrels.column_names)}")
    score = qrels["score"]
    if score.type == pa.float64():
        return qrels
    try:
        numbers = pc.cast(score, pa.float64())
    except pa.ArrowInvalid:
        row, value = next((i, v) for i, v in enumerate(score.to_pylist()) if not _is_number(v))
        raise DataError(f"qrels row {row}: score is {value!r}; a number >= 0 is expected") from None
    return qrels.set_column(qrels.column_names.index("score"), "score", numbers)


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def _duplicates(ids: pa.ChunkedArray, table: str, column: str) -> Iterator[str]:
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    seen: dict[str, int] = {}
    for row, value in enumerate(ids.to_pylist()):
        if value in seen:
            yield f"{table} row {row}: {column} {value!r} stands already in row {seen[value]}; ids must be unique"
            return
        seen[value] = row


def _unknown_ids(ids: pa.ChunkedArray, known: pa.ChunkedArray, column: str, table: str) -> Iterator[str]:
    missing = pc.invert(pc.is_in(ids, value_set=known.combine_chunks())).to_numpy()
    if missing.any():
        row = int(missing.argmax())
        yield (
            f"qrels row {row}: {column} {ids[row].as_py()!r} is not in the {table} "
            f"({int(missing.sum()):,} such rows); add it there or drop the pair"
        )


def _bad_scores(qrels: pa.Table) -> Iterator[str]:
    score = qrels["score"].to_numpy()
    bad = ~(np.isfinite(score) & (score >= 0))
    if bad.any():
        row = int(bad.argmax())
        pair = f"query {qrels['query_id'][row].as_py()!r}, product {qrels['product_id'][row].as_py()!r}"
        yield (
            f"qrels row {row} ({pair}): score is {score[row]}; a finite number >= 0 is expected "
            f"({int(bad.sum()):,} such rows)"
        )


def _repeated_pairs(data: RankedData) -> Iterator[str]:
    query, product, score = data.pairs
    key = query.astype(np.int64) * max(data.corpus.num_rows, 1) + product
    order = np.argsort(key, kind="stable")
    same = np.flatnonzero(key[order][1:] == key[order][:-1])
    if not len(same):
        return
    conflicting = same[score[order[same]] != score[order[same + 1]]]
    first, second = (order[(conflicting if len(conflicting) else same)[0] + i] for i in (0, 1))
    pair = f"query {data.qrels['query_id'][first].as_py()!r}, product {data.qrels['product_id'][first].as_py()!r}"
    kind = f"two scores, {score[first]:g} and {score[second]:g}" if len(conflicting) else "the same score twice"
    yield f"qrels rows {first} and {second}: {pair} has {kind} ({len(same):,} repeated pairs); keep one row a pair"


# -- helpers -----------------------------------------------------------------------------------------------------------


def _rows_of(ids: pa.ChunkedArray, table_ids: pa.ChunkedArray) -> np.ndarray:
    return pc.index_in(ids, value_set=table_ids.combine_chunks()).to_numpy().astype(np.int64)


def _held_out(count: int, train_share: float, rng: np.random.Generator) -> np.ndarray:
    held_out = np.ones(count, bool)
    held_out[rng.permutation(count)[: round(count * train_share)]] = False
    return held_out


def _hash(text: str | bytes) -> int:
    data = text.encode() if isinstance(text, str) else text
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _shared(train: pa.Table, held_out: pa.Table, id_column: str, split: str) -> Iterator[str]:
    columns: Sequence[str] = [c for c in train.column_names if c in held_out.column_names and c != "division"]
    for column in columns:
        if id_column == "product_id" and column != "product_id" and not is_image(train[column]):
            continue
        known = {key: row for row, key in _keys(train[column])}
        hits = [(row, known[key]) for row, key in _keys(held_out[column]) if key in known]
        if hits:
            row, train_row = hits[0]
            yield (
                f"{split}: {len(hits):,} rows share their {column} with in_domain, "
                f"first {held_out[id_column][row].as_py()!r} and {train[id_column][train_row].as_py()!r}"
            )


def _keys(column: pa.ChunkedArray) -> Iterator[tuple[int, int]]:
    for row, value in enumerate(column.to_pylist()):
        if is_image(column):
            value = (value or {}).get("bytes") or (value or {}).get("path")
        elif isinstance(value, str):
            value = normalise_text(value)
        if value:
            yield row, _hash(value if isinstance(value, bytes) else str(value))
