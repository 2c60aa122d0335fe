"""RankedData: queries, corpus and scored pairs (qrels), Arrow-backed and checked on construction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gcl_toolkit.data.columns import (
    IMAGE,
    as_images,
    as_text,
    as_vectors,
    is_image,
    is_numbers,
    is_text,
    is_vector,
    numbers,
    put,
    vector_parts,
)
from gcl_toolkit.data.findings import DIVISIONS, NOT_FIELDS, findings
from gcl_toolkit.errors import DataError, UserError, counted, unknown

SPLITS = ("in_domain", "novel_query", "novel_document", "zero_shot")


class Pairs(NamedTuple):
    """The qrels as row numbers: `query[i]` and `product[i]` index the two tables, `score[i]` is a float64."""

    query: np.ndarray
    product: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class RankedData:
    """Queries, corpus and the scores of known pairs.

    queries: `query_id` (string, unique), one column for each left field, optionally `division` ("dev", "test", null).
    corpus:  `product_id` (string, unique), one column for each right field.
    qrels:   `query_id`, `product_id`, `score` (float64, finite, >= 0; larger is better), each pair once; further
             columns are kept.
    A field is text, an image (type `IMAGE`) or a vector (list of D float16 or float32); numbers are converted to text.
    Raises DataError naming the table, the row and the value where this doesn't hold.
    """

    queries: pa.Table
    corpus: pa.Table
    qrels: pa.Table
    name: str = "data"
    card: dict = field(default_factory=dict, compare=False)

    def __post_init__(self):
        faults = findings(self.queries, self.corpus, self.qrels)
        if faults:
            more = f" (and {counted(len(faults) - 1, 'more problem')}; gcl data check lists all)" if faults[1:] else ""
            raise DataError(f"{self.name}: {faults[0]}{more}")
        qrels = _typed(self.qrels, ["query_id", "product_id"])
        if qrels["score"].type != pa.float64():
            qrels = put(qrels, "score", pa.chunked_array([numbers(qrels["score"])]))
        for name, table in (("queries", _typed(self.queries)), ("corpus", _typed(self.corpus)), ("qrels", qrels)):
            object.__setattr__(self, name, table)

    def __repr__(self) -> str:
        fields = f"queries by {', '.join(self.query_fields)}; products by {', '.join(self.corpus_fields)}"
        return (
            f"RankedData({self.name}: {counted(self.queries.num_rows, 'query')}, "
            f"{counted(self.corpus.num_rows, 'product')}, {counted(self.qrels.num_rows, 'scored pair')}; {fields})"
        )

    @property
    def query_ids(self) -> np.ndarray:
        return self.queries["query_id"].to_numpy()

    @property
    def product_ids(self) -> np.ndarray:
        return self.corpus["product_id"].to_numpy()

    @property
    def query_fields(self) -> list[str]:
        return [c for c in self.queries.column_names if c not in NOT_FIELDS]

    @property
    def corpus_fields(self) -> list[str]:
        return [c for c in self.corpus.column_names if c not in NOT_FIELDS]

    @cached_property
    def pairs(self) -> Pairs:
        """The qrels as row numbers into `queries` and `corpus`."""
        return Pairs(
            _rows_of(self.qrels["query_id"], self.queries["query_id"]),
            _rows_of(self.qrels["product_id"], self.corpus["product_id"]),
            self.qrels["score"].to_numpy(),
        )

    @cached_property
    def digest(self) -> str:
        """A hash of every row; of pictures, of their paths and sizes in bytes."""
        digest = hashlib.blake2b(digest_size=16)
        for table in (self.queries, self.corpus, self.qrels):
            for name in table.column_names:
                column = table[name]
                digest.update(f"{name} {column.type}\0".encode())
                parts = [column]
                if is_vector(column):
                    for numbers_NxD in vector_parts(column):
                        digest.update(np.ascontiguousarray(numbers_NxD).data)
                    parts = [column.is_valid()]
                elif is_image(column):
                    parts = [pc.struct_field(column, "path"), pc.binary_length(pc.struct_field(column, "bytes"))]
                for chunk in (chunk for part in parts for chunk in part.chunks):
                    digest.update("".join(f"{value}\0" for value in chunk.to_pylist()).encode())
        return digest.hexdigest()

    def only(self, division: str) -> RankedData:
        """The queries of one division ("dev" or "test") with their qrels; the corpus is kept."""
        if division == "all":
            return self
        if division not in DIVISIONS:
            raise unknown("division", division, (*DIVISIONS, "all"))
        if "division" not in self.queries.column_names:
            raise DataError(f"{self.name}: the queries have no column 'division'; add one with divide(data)")
        rows = pc.fill_null(pc.equal(self.queries["division"], division), False)
        return self.take_queries(np.flatnonzero(rows.to_numpy()))

    def take_queries(self, rows: np.ndarray) -> RankedData:
        """The queries at `rows`, in that order, with all their qrels; the corpus is kept."""
        queries = self.queries.take(pa.array(rows))
        kept = pc.is_in(self.qrels["query_id"], value_set=queries["query_id"].combine_chunks())
        return replace(self, queries=queries, qrels=self.qrels.filter(kept))

    def sample_queries(self, count: int, seed: int = 0) -> RankedData:
        """At most `count` queries, drawn uniformly, each with its full spread of scores; the corpus is kept."""
        shuffled = np.random.default_rng(seed).permutation(self.queries.num_rows)
        return self.take_queries(np.sort(shuffled[:count]))


def divide(data: RankedData, seed: int = 0) -> RankedData:
    """Assign each query to "dev" or "test", half each, by a seeded hash of its id (the same in every split)."""
    half = ["dev" if hash64(f"{seed}/{q}") % 2 else "test" for q in data.queries["query_id"].to_pylist()]
    return replace(data, queries=put(data.queries, "division", pa.array(half, pa.string())))


def four_way_split(
    data: RankedData, *, seed: int = 0, train_queries: float = 0.8, train_documents: float = 0.5
) -> dict[str, RankedData]:
    """Split queries and documents, as MarqoGS-10M does, into the four `SPLITS`.

    in_domain: training queries x training documents; novel_query: held-out queries x training documents;
    novel_document: training queries x held-out documents; zero_shot: both held out. Every split has its entire half
    of the corpus; a query without a scored product in that half is left out of the split. Queries without a division
    get one: "dev" for choosing settings, "test" for reporting.
    """
    rng = np.random.default_rng(seed)
    query_is_novel = _held_out(data.queries.num_rows, train_queries, rng)
    product_is_novel = _held_out(data.corpus.num_rows, train_documents, rng)
    pair_query, pair_product, _ = data.pairs
    split = np.array(SPLITS)[query_is_novel[pair_query] + 2 * product_is_novel[pair_product]]
    return _splits(data, split, np.stack([~product_is_novel, product_is_novel]), seed)


def stated_splits(data: RankedData, seed: int = 0) -> dict[str, RankedData]:
    """The splits named by the pairs' column `split`; a product without a pair goes to a random half."""
    product, split = data.pairs.product, np.array(data.qrels["split"].to_pylist())
    order = np.random.default_rng(seed).permutation(data.corpus.num_rows)
    in_half = np.stack([order % 2 == half for half in (0, 1)])
    in_half[:, np.unique(product)] = False
    for half, names in enumerate((SPLITS[:2], SPLITS[2:])):
        in_half[half, product[np.isin(split, names)]] = True
    return {name: part for name, part in _splits(data, split, in_half, seed).items() if part.qrels.num_rows}


def _splits(data: RankedData, split_P: np.ndarray, in_half_2xM: np.ndarray, seed: int) -> dict[str, RankedData]:
    divided = data if "division" in data.queries.column_names else divide(data, seed)
    halves = [data.corpus.filter(pa.array(in_half)) for in_half in in_half_2xM]
    splits = {}
    for number, name in enumerate(SPLITS):
        queries = divided.queries.take(pa.array(np.unique(data.pairs.query[split_P == name])))
        qrels = data.qrels.filter(pa.array(split_P == name))
        splits[name] = RankedData(queries, halves[number // 2], qrels, name=name, card=data.card)
    return splits


def query_folds(splits: dict[str, RankedData], count: int, seed: int = 0) -> list[dict[str, RankedData]]:
    """`count` folds: the four splits themselves, then the same documents with other queries held out.

    Each fold holds out as many queries as `splits` does, no query twice, so that more queries measure the cold start.
    A query keeps its division, so settings chosen on dev queries are still reported on others.
    """
    if set(splits) != set(SPLITS):
        raise DataError(f"folds need the four splits {', '.join(SPLITS)}; the data has {', '.join(splits)}")
    held_out, trained = (
        np.unique(np.concatenate([splits[name].query_ids for name in names])) for names in (SPLITS[1::2], SPLITS[::2])
    )
    most = 1 + len(trained) // max(1, len(held_out))
    if not 1 <= count <= most:
        raise UserError(f"folds={count}; {len(held_out)} of {len(trained) + len(held_out)} queries allow 1 to {most}")
    shuffled = np.random.default_rng(seed).permutation(trained)
    folds = [splits]
    for k in range(count - 1):
        chosen = shuffled[k * len(held_out) : (k + 1) * len(held_out)]
        folds.append({})
        for seen, unseen in (SPLITS[:2], SPLITS[2:]):
            both = [splits[seen], splits[unseen]]
            queries, qrels = (pa.concat_tables([getattr(part, name) for part in both]) for name in ("queries", "qrels"))
            merged = replace(splits[seen], queries=queries, qrels=qrels)
            novel = np.isin(merged.query_ids, chosen)
            folds[-1] |= {
                name: replace(merged.take_queries(np.flatnonzero(novel == is_novel)), name=name)
                for name, is_novel in ((seen, False), (unseen, True))
            }
    return folds


def leaks(splits: dict[str, RankedData]) -> list[str]:
    """What the training split (in_domain) shares with the held-out splits, one line each; empty without leaks.

    Compared are ids, normalised query texts, and image bytes or paths (by hash). Equal *titles* of two products are
    common in shops and don't count.
    """
    if "in_domain" not in splits:
        return []
    train, shared = splits["in_domain"], list[str]()
    for name in SPLITS[1:]:
        if name in splits and name != "novel_document":
            shared += _shared(train.queries, splits[name].queries, "query_id", name)
        if name in splits and name != "novel_query":
            shared += _shared(train.corpus, splits[name].corpus, "product_id", name)
    return shared


def normalise_text(text: str) -> str:
    """Lower case and single spaces: queries that are equal after this count as one."""
    return " ".join(text.lower().split())


def _rows_of(ids: pa.ChunkedArray, table_ids: pa.ChunkedArray) -> np.ndarray:
    return pc.index_in(ids, value_set=table_ids.combine_chunks()).to_numpy().astype(np.int64)


def _typed(table: pa.Table, columns: list[str] | None = None) -> pa.Table:
    """The table with its columns as text, `IMAGE` or vectors; the same table if they already are."""
    for name in columns or table.column_names:
        column = table[name]
        if is_image(column) and column.type != IMAGE:
            table = put(table, name, as_images(column, Path()))
        elif is_numbers(column):
            table = table if is_vector(column) else put(table, name, as_vectors(column))
        elif not is_image(column) and not is_text(column):
            table = put(table, name, as_text(column))
        if name in NOT_FIELDS and table[name].type != pa.string():
            table = put(table, name, table[name].cast(pa.string()))
    return table


def _held_out(count: int, train_share: float, rng: np.random.Generator) -> np.ndarray:
    held_out = np.ones(count, bool)
    held_out[rng.permutation(count)[: round(count * train_share)]] = False
    return held_out


def hash64(text: str | bytes) -> int:
    """A hash that is the same in every process and on every machine."""
    data = text.encode() if isinstance(text, str) else text
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _shared(train: pa.Table, held_out: pa.Table, id_column: str, split: str) -> Iterator[str]:
    for column in train.column_names:
        if column not in held_out.column_names or not (column in (id_column, "query") or is_image(train[column])):
            continue
        if column == id_column:
            at = pc.fill_null(pc.index_in(held_out[column], value_set=train[column].combine_chunks()), -1).to_numpy()
            hits = [(row, int(at[row])) for row in np.flatnonzero(at >= 0).tolist()]
        else:
            known = {key: row for row, key in _keys(train[column])}
            hits = [(row, known[key]) for row, key in _keys(held_out[column]) if key in known]
        if hits:
            row, train_row = hits[0]
            yield (
                f"{split}: {counted(len(hits), 'row')} share{'s' * (len(hits) == 1)} their {column} with in_domain, "
                f"first {held_out[id_column][row].as_py()!r} and {train[id_column][train_row].as_py()!r}"
            )


def _keys(column: pa.ChunkedArray) -> Iterator[tuple[int, int]]:
    """The row and the hash of each picture, or of each text, normalised."""
    for row, scalar in enumerate(column):
        value = scalar.as_py()
        if value and is_image(column):
            value = value["bytes"] or value["path"]
        elif value:
            value = normalise_text(value)
        if value:
            yield row, hash64(value)
