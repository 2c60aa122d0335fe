"""A corpus's embeddings in Milvus (embedded or a cluster), FAISS or parquet. Only this module imports pymilvus."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet, types

from gcl_toolkit.data.fields import is_missing
from gcl_toolkit.errors import DataError, UserError, first_line, unknown

KINDS = ("FLAT", "IVF_FLAT", "HNSW", "DISKANN")
"""FLAT is exact. Milvus Lite has the first three; DISKANN, for vectors that exceed memory, needs a cluster."""
EF = 128
"""How many candidates HNSW keeps while searching."""
MAX_TEXT = 65_535
"""Milvus's limit for a text field, in bytes."""
MILVUS_TYPES = {
    "BOOL": (types.is_boolean,),
    "INT64": (types.is_integer,),
    "DOUBLE": (types.is_floating,),
    "VARCHAR": (types.is_string, types.is_large_string),
}

Value = str | bool | int | float | None
Where = Mapping[str, Value | Sequence[Value]]
"""{column: required value, or a list of allowed values}; all conditions must hold. None: the value is missing."""


class MilvusIndex(AbstractContextManager):
    """A collection of a Milvus store, open for searching. Close it, or use it in `with`: Milvus Lite locks its file.

    uri: a file ending in .db (Milvus Lite, in this process) or http://host:19530 (a cluster, with its `token`).
    """

    def __init__(self, uri: str | Path, collection: str = "products", *, token: str = ""):
        self.client, self.collection = _connect(uri, token), collection
        self._lite = _is_lite(uri)
        try:
            if not self.client.has_collection(collection):
                known = ", ".join(self.client.list_collections()) or "none"
                raise UserError(f"{uri} has no collection {collection!r}; it has {known}; create one with gcl index")
            self.client.load_collection(collection)
            fields = {field["name"]: field for field in self.client.describe_collection(collection)["fields"]}
            self.columns = [name for name in fields if name not in ("product_id", "vector")]
            self.dimension = fields["vector"]["params"]["dim"]
            self.kind = self.client.describe_index(collection, "vector")["index_type"]
            self.size = int(self.client.get_collection_stats(collection)["row_count"])
        except BaseException:
            self.close()
            raise

    @classmethod
    def build(
        cls,
        uri: str | Path,
        vectors_NxD: np.ndarray,
        corpus: pa.Table,
        *,
        kind: str = "FLAT",
        columns: Sequence[str] | None = None,
        collection: str = "products",
        token: str = "",
    ) -> MilvusIndex:
        """Write unit vectors, one per row of the corpus, with the columns to filter by (default: all but pictures).

        Replaces a collection of the same name. The index is built after all rows are inserted, so that a kind which
        the store doesn't support raises here instead of silently falling back to a scan.
        """
        if kind not in KINDS:
            raise unknown("kind of index", kind, KINDS)
        if _is_lite(uri) and kind == "DISKANN":
            raise UserError(f"{kind} needs a Milvus cluster (a URI); Milvus Lite supports {', '.join(KINDS[:3])}")
        if len(vectors_NxD) != corpus.num_rows:
            raise UserError(f"{len(vectors_NxD):,} vectors for {corpus.num_rows:,} products; expected one per product")
        columns = _scalar_columns(corpus, columns)
        client = _connect(uri, token)
        try:
            consistency = {} if _is_lite(uri) else {"consistency_level": "Strong"}
            _fill(client, collection, vectors_NxD, corpus.select(["product_id", *columns]), kind, **consistency)
        finally:
            client.close()
        return cls(uri, collection, token=token)

    def search(self, queries_QxD: np.ndarray, k: int = 10, where: Where | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(inner products, product ids), each queries x k, best first; -inf and None where there are fewer matches."""
        from pymilvus.exceptions import MilvusException

        if queries_QxD.shape[1:] != (self.dimension,):
            raise UserError(f"queries have the shape {queries_QxD.shape}; queries x {self.dimension} is expected")
        expression = self.expression(where or {})
        try:
            results = self.client.search(
                self.collection,
                list(np.ascontiguousarray(queries_QxD, np.float32)),
                filter=expression,
                limit=k,
                anns_field="vector",
                output_fields=["product_id"],
                search_params={"metric_type": "IP", "params": self._effort(k, filtered=bool(where))},
            )
        except MilvusException as error:
            raise UserError(f"Milvus refused the search {expression!r}: {error.message}") from None
        scores_QxK = np.full((len(queries_QxD), k), -np.inf, np.float32)
        ids_QxK = np.full((len(queries_QxD), k), None, object)
        for row, hits in enumerate(results):
            scores_QxK[row, : len(hits)] = [hit["distance"] for hit in hits]
            ids_QxK[row, : len(hits)] = [hit["entity"]["product_id"] for hit in hits]
        return scores_QxK, ids_QxK

    def expression(self, where: Where) -> str:
        """The filter in Milvus's language; every value is written as a literal, so that it can't inject code."""
        parts = []
        for column, value in where.items():
            if column not in (*self.columns, "product_id"):
                raise unknown("column to filter by", column, ["product_id", *self.columns])
            if value is None:
                parts.append(f"{column} is null")
            elif isinstance(value, str | bool | int | float):
                parts.append(f"{column} == {_literal(value)}")
            else:
                parts.append(f"{column} in [{', '.join(map(_literal, value))}]")
        return " and ".join(parts)

    def _effort(self, k: int, filtered: bool) -> dict[str, int]:
        """How much of an approximate index is searched. Milvus Lite applies the filter to the candidates it has
        visited and would miss rare values, so a filtered search visits everything there."""
        everything = filtered and self._lite
        if self.kind == "IVF_FLAT":
            return {"nprobe": self.size if everything else _probes(self.size)}
        if self.kind == "HNSW":
            return {"ef": max(k, self.size if everything else EF)}
        return {"search_list": max(k, 100)} if self.kind == "DISKANN" else {}

    def close(self) -> None:
        self.client.close()

    def __exit__(self, *_: object) -> None:
        self.close()


# -- files -------------------------------------------------------------------------------------------------------------


def write_faiss(vectors_NxD: np.ndarray, path: str | Path, kind: str = "FLAT") -> None:
    """A FAISS index file by inner product, for `faiss.read_index`; its ids are the row numbers of the corpus."""
    import faiss

    if kind not in KINDS[:3]:
        raise unknown("kind of FAISS index", kind, KINDS[:3])
    count, dimension = vectors_NxD.shape
    options = _build_options(kind, count)
    recipe = {"FLAT": "Flat", "HNSW": "HNSW{M}", "IVF_FLAT": "IVF{nlist},Flat"}[kind].format(**options)
    index: Any = faiss.index_factory(dimension, recipe, faiss.METRIC_INNER_PRODUCT)
    if kind == "HNSW":
        index.hnsw.efConstruction, index.hnsw.efSearch = options["efConstruction"], EF
    elif kind == "IVF_FLAT":
        index.nprobe = _probes(count)
    vectors = np.ascontiguousarray(vectors_NxD, np.float32)
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(path))


def write_vectors(vectors_NxD: np.ndarray, product_ids: np.ndarray, path: str | Path, dtype: str = "float32") -> None:
    """A parquet file with `product_id` and `vector`, a list of D float32 or float16, in the given order."""
    if dtype not in ("float32", "float16"):
        raise unknown("type of vectors", dtype, ("float32", "float16"))
    if len(vectors_NxD) != len(product_ids):
        raise UserError(f"{len(vectors_NxD):,} vectors for {len(product_ids):,} ids; expected one per id")
    numbers = pa.array(np.ascontiguousarray(vectors_NxD, dtype).ravel())
    vectors = pa.FixedSizeListArray.from_arrays(numbers, vectors_NxD.shape[1])
    table = pa.table({"product_id": pa.array(list(product_ids), pa.string()), "vector": vectors})
    parquet.write_table(table, path, use_dictionary=False, compression="none")


# -- helpers -----------------------------------------------------------------------------------------------------------


def _is_lite(uri: str | Path) -> bool:
    return "://" not in str(uri)


def _connect(uri: str | Path, token: str) -> Any:
    if _is_lite(uri) and Path(uri).suffix != ".db":
        raise UserError(f"{uri} is neither a Milvus Lite file (ends in .db) nor a URI such as http://host:19530")
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise UserError(f"{error}; install the vector store with pip install 'gcl-toolkit[index]'") from None
    try:
        return MilvusClient(str(uri), token=token)
    except (MilvusException, OSError) as error:
        raise UserError(f"can't open {uri} ({first_line(error)}); is it in use or unreachable?") from None


def _milvus_type(kind: pa.DataType) -> str | None:
    """Milvus's name for a scalar type; None for others, such as pictures."""
    return next((name for name, tests in MILVUS_TYPES.items() if any(test(kind) for test in tests)), None)


def _scalar_columns(corpus: pa.Table, columns: Sequence[str] | None) -> list[str]:
    """The columns to store: the requested ones, or all that Milvus can store."""
    able = [name for name in corpus.column_names if name != "product_id" and _milvus_type(corpus[name].type)]
    for column in columns or ():
        if column not in able:
            raise unknown("column to store", column, able)
    unusable = [n for n in columns or able if n == "vector" or not re.fullmatch(r"[A-Za-z_]\w*", n, re.ASCII)]
    reason = "can't be a field of Milvus; letters, digits and _ are expected, and not 'vector'"
    if unusable and columns:
        raise DataError(f"corpus: column {unusable[0]!r} {reason}")
    if unusable:
        warnings.warn(f"not stored: {', '.join(map(repr, unusable))} {reason}", stacklevel=2)
    return [name for name in columns or able if name not in unusable] if columns != () else []


def _fill(client: Any, collection: str, vectors_NxD: np.ndarray, table: pa.Table, kind: str, **options: str) -> None:
    """Create the collection from `table` (product_id and the stored columns) and the vectors; then build its index."""
    if client.has_collection(collection):
        client.drop_collection(collection)
    client.create_collection(collection, schema=_schema(client, table, vectors_NxD.shape[1]), **options)
    for rows in _batches(vectors_NxD, table):
        client.insert(collection, rows)
    client.flush(collection)
    index, build = client.prepare_index_params(), _build_options(kind, len(vectors_NxD))
    params = {**build, "params": json.dumps(build)}  # a cluster reads the first, Milvus Lite 3 the second
    index.add_index("vector", index_type=kind, metric_type="IP", params=params)
    client.create_index(collection, index)


def _schema(client: Any, table: pa.Table, dimension: int) -> Any:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("product_id", DataType.VARCHAR, is_primary=True, max_length=MAX_TEXT)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    for column in table.drop_columns(["product_id"]).schema:
        kind = _milvus_type(column.type)
        length = {"max_length": MAX_TEXT} if kind == "VARCHAR" else {}
        schema.add_field(column.name, DataType[kind], nullable=True, **length)
    return schema


def _batches(vectors_NxD: np.ndarray, table: pa.Table, size: int = 1000) -> Iterator[list[dict[str, Any]]]:
    """Rows for Milvus, a thousand at a time; missing values as None."""
    for start in range(0, table.num_rows, size):
        rows = table.slice(start, size).to_pylist()
        for number, row in enumerate(rows, start):
            for column, value in row.items():
                row[column] = None if is_missing(value) else value
                if isinstance(value, str) and len(value.encode()) > MAX_TEXT:
                    raise DataError(
                        f"corpus row {number}: {column} has over {MAX_TEXT:,} bytes, Milvus's limit; "
                        "leave the column out or shorten the text"
                    )
            row["vector"] = np.asarray(vectors_NxD[number], np.float32)
        yield rows


def _build_options(kind: str, count: int) -> dict[str, int]:
    """About 4 sqrt(N) lists of at least 39 vectors (what k-means needs); 16 neighbours per node."""
    if kind == "IVF_FLAT":
        return {"nlist": int(max(1, min(4 * count**0.5, count / 39)))}
    return {"M": 16, "efConstruction": 200} if kind == "HNSW" else {}


def _probes(count: int) -> int:
    """Lists to search: an eighth of them."""
    return max(1, _build_options("IVF_FLAT", count)["nlist"] // 8)


def _literal(value: Value) -> str:
    """A value as a literal of Milvus's filter language."""
    if isinstance(value, str):
        if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", value):
            raise UserError(f"filter value {value!r} has a control character, which Milvus can't compare")
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return str(value).lower() if isinstance(value, bool) else repr(value)
    raise UserError(f"filter value {value!r} is not a text, a finite number or a boolean")
