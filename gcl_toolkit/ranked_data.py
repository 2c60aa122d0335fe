"""RankedData: queries, corpus and scored pairs (qrels), Arrow-backed and checked when made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gcl_toolkit.errors import DataError, UserError, unknown
from gcl_toolkit.findings import DIVISIONS, findings

SPLITS = ("in_domain", "novel_query", "novel_document", "zero_shot")
IMAGE = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
"""Arrow type of an image column: encoded bytes, or the path of a file, or null. Decoded late.

Read single rows with `column[row].as_py()`: `column.take(rows)` copies the whole column first.
"""

_NOT_FIELDS = {"query_id", "product_id", "division"}


class Pairs(NamedTuple):
    """The qrels as row numbers: `query[i]` and `product[i]` index the two tables, `score[i]` is a float64."""

    query: np.ndarray
    product: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class RankedData:
    """Queries, corpus and the scores of known pairs.

    queries: `query_id` (string, unique), one column a left field, optionally `division` ("dev", "test" or null).
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
        found = findings(self.queries, self.corpus, self.qrels)
        if found:
            more = f" (and {len(found) - 1} more problems; `gcl data check` lists them all)" if found[1:] else ""
            raise DataError(f"{self.name}: {found[0]}{more}")
        set_ = object.__setattr__
        set_(self, "queries", _set(self.queries, "query_id", pa.string()))
        set_(self, "corpus", _set(self.corpus, "product_id", pa.string()))
        qrels = _set(_set(self.qrels, "query_id", pa.string()), "product_id", pa.string())
        set_(self, "qrels", _set(qrels, "score", pa.float64()))

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

    @cached_property
    def digest(self) -> str:
        """Of every row; of pictures their paths and the number of their bytes."""
        digest = hashlib.blake2b(digest_size=16)
        for table in (self.queries, self.corpus, self.qrels):
            for name in table.column_names:
                column = table[name]
                digest.update(f"{name} {column.type}\0".encode())
                parts = [column]
                if is_image(column):
                    parts = [pc.struct_field(column, "path"), pc.binary_length(pc.struct_field(column, "bytes"))]
                for chunk in (chunk for part in parts for chunk in part.chunks):
                    digest.update("".join(f"{value}\0" for value in chunk.to_pylist()).encode())
        return digest.hexdigest()

    def only(self, division: str) -> RankedData:
        """The queries of one division ("dev" or "test") with their qrels; the corpus stays whole."""
        if division == "all":
            return self
        if division not in DIVISIONS:
            raise unknown("division", division, (*DIVISIONS, "all"))
        if "division" not in self.queries.column_names:
            raise DataError(f"{self.name}: the queries have no column 'division'; make one with divide(data)")
        rows = pc.fill_null(pc.equal(self.queries["division"], division), False)
        return self.take_queries(np.flatnonzero(rows.to_numpy()))

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
    half = ["dev" if hash64(f"{seed}/{q}") % 2 else "test" for q in data.queries["query_id"].to_pylist()]
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
    "dev" and "test" for choosing settings and for reporting, unless they already are.
    """
    rng = np.random.default_rng(seed)
    query_is_novel = _held_out(data.queries.num_rows, train_queries, rng)
    product_is_novel = _held_out(data.corpus.num_rows, train_documents, rng)
    pair_query, pair_product, _ = data.pairs
    divided = data if "division" in data.queries.column_names else divide(data, seed)
    halves = {novel: data.corpus.filter(pa.array(product_is_novel == novel)) for novel in (False, True)}
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
            halves[novel_product],
            data.qrels.filter(pa.array(in_split)),
            name=name,
            card=data.card,
        )
    return splits


def query_folds(splits: dict[str, RankedData], count: int, seed: int = 0) -> list[dict[str, RankedData]]:
    """The four splits as they are, and again with the same documents and other queries held out; `count` in all.

    Each fold holds out as many queries as `splits` does, none of them twice, so that more queries tell of the cold
    start. A query keeps its division: what dev queries chose is still reported on others.
    """
    if set(splits) != set(SPLITS):
        raise DataError(f"folds need the four splits {', '.join(SPLITS)}; there are {', '.join(splits)}")
    held_out, trained = (
        np.unique(np.concatenate([splits[name].query_ids for name in names])) for names in (SPLITS[1::2], SPLITS[::2])
    )
    most = 1 + len(trained) // max(1, len(held_out))
    if not 1 <= count <= most:
        raise UserError(f"{count} folds; {len(held_out)} of {len(trained) + len(held_out)} queries allow 1 to {most}")
    shuffled = np.random.default_rng(seed).permutation(trained)
    folds = [splits]
    for k in range(count - 1):
        chosen = shuffled[k * len(held_out) : (k + 1) * len(held_out)]
        folds.append({})
        for seen, unseen in (SPLITS[:2], SPLITS[2:]):
            both = [splits[seen], splits[unseen]]
            queries, qrels = (pa.concat_tables([getattr(part, name) for part in both]) for name in ("queries", "qrels"))
            whole = replace(splits[seen], queries=queries, qrels=qrels)
            novel = np.isin(whole.query_ids, chosen)
            folds[-1] |= {
                name: replace(whole.take_queries(np.flatnonzero(novel == is_novel)), name=name)
                for name, is_novel in ((seen, False), (unseen, True))
            }
    return folds


def leaks(splits: dict[str, RankedData]) -> list[str]:
    """What the training split (in_domain) shares with the splits that hold something out; empty when clean.

    Checked: shared ids, the same normalised query text, the same image bytes or path (by hash). The same *title* on
    two products is common in shops and not counted.
    """
    if "in_domain" not in splits:
        return []
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


# -- helpers -----------------------------------------------------------------------------------------------------------


def _rows_of(ids: pa.ChunkedArray, table_ids: pa.ChunkedArray) -> np.ndarray:
    return pc.index_in(ids, value_set=table_ids.combine_chunks()).to_numpy().astype(np.int64)


def _set(table: pa.Table, column: str, kind: pa.DataType) -> pa.Table:
    if table[column].type == kind:
        return table
    return table.set_column(table.column_names.index(column), column, pc.cast(table[column], kind))


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
        known = {key: row for row, key in _keys(train[column])}
        hits = [(row, known[key]) for row, key in _keys(held_out[column]) if key in known]
        if hits:
            row, train_row = hits[0]
            yield (
                f"{split}: {len(hits):,} rows share their {column} with in_domain, "
                f"first {held_out[id_column][row].as_py()!r} and {train[id_column][train_row].as_py()!r}"
            )


def _keys(column: pa.ChunkedArray) -> Iterator[tuple[int, int]]:
    for row, scalar in enumerate(column):
        value = scalar.as_py()
        if is_image(column):
            value = (value or {}).get("bytes") or (value or {}).get("path")
        elif isinstance(value, str):
            value = normalise_text(value)
        if value:
            yield row, hash64(value if isinstance(value, bytes) else str(value))
