"""The only door to the vector store: a corpus's embeddings in Milvus, embedded (Milvus Lite) or on a cluster by URI.

Also the other ways out: a FAISS index file, and parquet of the vectors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from gcl_toolkit.errors import DataError, UserError, first_line, unknown
from gcl_toolkit.fields import is_missing

KINDS = ("FLAT", "IVF_FLAT", "HNSW", "DISKANN")
"""FLAT is exact. Milvus Lite has the first three; DISKANN, for vectors beyond memory, needs a cluster."""
CLUSTER_ONLY = ("DISKANN",)
EF = 128
"""How many candidates HNSW keeps while searching."""
MAX_TEXT = 65_535
"""Bytes of a text field: Milvus's limit."""

Value = str | bool | int | float | None
Where = Mapping[str, Value | Sequence[Value]]
"""{column: the value it must have, or a list of the allowed ones}; all must hold. None: the value is missing."""


class MilvusIndex:
    """A collection of a Milvus store, open for searching. Close it, or use it in `with`: Milvus Lite locks its file.

    uri: a file ending in .db (Milvus Lite, in this process) or http://host:19530 (a cluster, with its `token`).
    """

    def __init__(self, uri: str | Path, collection: str = "products", *, token: str = ""):
        self.client, self.collection = _connect(uri, token), collection
        self._lite = _is_lite(uri)
        try:
            if not self.client.has_collection(collection):
                known = ", ".join(self.client.list_collections()) or "none"
                raise UserError(f"{uri} has no collection {collection!r}; it has {known}; make one with gcl index")
            self.client.load_collection(collection)
            fields = self.client.describe_collection(collection)["fields"]
            self.columns = [field["name"] for field in fields if field["name"] not in ("product_id", "vector")]
            (self.dimension,) = (f["params"]["dim"] for f in fields if f["name"] == "vector")
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
        """Write unit vectors, one a row of the corpus, with the columns to filter by (default: all but pictures).

        Replaces a collection of that name. The index is built once all rows are in, so a kind that the store doesn't
        know is an error here and not a silent fall-back to scanning.
        """
        if kind not in KINDS:
            raise unknown("kind of index", kind, KINDS)
        if _is_lite(uri) and kind in CLUSTER_ONLY:
            raise UserError(f"{kind} needs a Milvus cluster (a URI); Milvus Lite has {', '.join(KINDS[:3])}")
        if len(vectors_NxD) != corpus.num_rows:
            raise UserError(f"{len(vectors_NxD):,} vectors for {corpus.num_rows:,} products; one a product is expected")
        columns = _scalar_columns(corpus, columns)
        client = _connect(uri, token)
        try:
            consistency = {} if _is_lite(uri) else {"consistency_level": "Strong"}
            _fill(client, collection, vectors_NxD, corpus, columns, kind, **consistency)
        finally:
            client.close()
        return cls(uri, collection, token=token)

    def search(self, queries_QxD: np.ndarray, k: int = 10, where: Where | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(inner products, product ids), each queries x k, best first; -inf and None where fewer were found."""
        from pymilvus.exceptions import MilvusException

        if queries_QxD.shape[1:] != (self.dimension,):
            raise UserError(f"queries have the shape {queries_QxD.shape}; queries x {self.dimension} is expected")
        expression = self.expression(where or {})
        try:
            found = self.client.search(
                self.collection,
                list(np.ascontiguousarray(queries_QxD, np.float32)),
                filter=expression,
                limit=k,
                anns_field="vector",
                output_fields=["product_id"],
                search_params={"metric_type": "IP", "params": self._effort(k, filtered=bool(where))},
            )
        except MilvusException as error:
            raise UserError(f"the search {expression!r} was refused: {error.message}") from None
        scores_QxK = np.full((len(queries_QxD), k), -np.inf, np.float32)
        ids_QxK = np.full((len(queries_QxD), k), None, object)
        for row, hits in enumerate(found):
            scores_QxK[row, : len(hits)] = [hit["distance"] for hit in hits]
            ids_QxK[row, : len(hits)] = [hit["entity"]["product_id"] for hit in hits]
        return scores_QxK, ids_QxK

    def expression(self, where: Where) -> str:
        """The filter as Milvus reads it; every value is written as a literal, so that no text can change its sense."""
        parts = []
        for column, value in where.items():
            if column not in (*self.columns, "product_id"):
                raise unknown("column to filter by", column, ["product_id", *self.columns])
            if value is None:
                parts.append(f"{column} is null")
            elif isinstance(value, str | bool | int | float):
                parts.append(f"{column} == {_literal(value)}")
            else:
                parts.append(f"{column} in [{', '.join(_literal(one) for one in value)}]")
        return " and ".join(parts)

    def _effort(self, k: int, filtered: bool) -> dict[str, int]:
        """How far an approximate index looks. Milvus Lite filters what its walk has met, so that rare values would be
        missed: there a filtered search looks at everything."""
        everything = filtered and self._lite
        if self.kind == "IVF_FLAT":
            return {"nprobe": self.size if everything else _probes(self.size)}
        if self.kind == "HNSW":
            return {"ef": max(k, self.size if everything else EF)}
        return {"search_list": max(k, 100)} if self.kind == "DISKANN" else {}

    def close(self) -> None:
        self.client.close()

    def __enter__(self) -> MilvusIndex:
        return self

    def __exit__(self, *_) -> None:
        self.close()


# -- other ways out ----------------------------------------------------------------------------------------------------


def write_faiss(vectors_NxD: np.ndarray, path: str | Path, kind: str = "FLAT") -> None:
    """A FAISS index file by inner product, to be read with `faiss.read_index`; its ids are the rows of the corpus."""
    import faiss

    if kind not in KINDS[:3]:
        raise unknown("kind of FAISS index", kind, KINDS[:3])
    count, dimension = vectors_NxD.shape
    options = _build_options(kind, count)
    index: Any = faiss.IndexFlatIP(dimension)
    if kind == "HNSW":
        index = faiss.IndexHNSWFlat(dimension, options["M"], faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = options["efConstruction"], EF
    elif kind == "IVF_FLAT":
        index = faiss.IndexIVFFlat(index, dimension, options["nlist"], faiss.METRIC_INNER_PRODUCT)
        index.nprobe = _probes(count)
    vectors = np.ascontiguousarray(vectors_NxD, np.float32)
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(path))


def write_vectors(vectors_NxD: np.ndarray, product_ids: np.ndarray, path: str | Path, dtype: str = "float32") -> None:
    """Parquet with `product_id` and `vector`, a list of D float32 or float16 a row, in the order given."""
    if dtype not in ("float32", "float16"):
        raise unknown("type of vectors", dtype, ("float32", "float16"))
    count, dimension = vectors_NxD.shape
    if count != len(product_ids):
        raise UserError(f"{count:,} vectors for {len(product_ids):,} ids; one an id is expected")
    numbers = pa.array(np.ascontiguousarray(vectors_NxD, dtype).ravel())
    vectors = pa.FixedSizeListArray.from_arrays(numbers, dimension)
    table = pa.table({"product_id": pa.array(list(product_ids), pa.string()), "vector": vectors})
    parquet.write_table(table, path, use_dictionary=False, compression="none")


# -- helpers -----------------------------------------------------------------------------------------------------------


def _is_lite(uri: str | Path) -> bool:
    return "://" not in str(uri)


def _connect(uri: str | Path, token: str) -> Any:
    if _is_lite(uri) and Path(uri).suffix != ".db":
        raise UserError(f"{uri}: Milvus Lite takes a file that ends in .db, a cluster a URI such as http://host:19530")
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise UserError(f"{error}; install the vector store with pip install 'gcl-toolkit[index]'") from None
    try:
        return MilvusClient(str(uri), token=token)
    except (MilvusException, OSError) as error:
        raise UserError(
            f"{uri}: no Milvus store can be opened here ({first_line(error)}); is it in use, or out of reach?"
        ) from None


def _scalar_columns(corpus: pa.Table, columns: Sequence[str] | None) -> list[str]:
    """The columns to store: those asked for, or all that can be."""
    able = [c for c in corpus.column_names if c != "product_id" and _is_scalar(corpus[c].type)]
    for column in columns or ():
        if column not in able:
            raise unknown("column to store", column, able)
    chosen = able if columns is None else list(columns)
    bad = [column for column in chosen if not re.fullmatch(r"[A-Za-z_]\w*", column, re.ASCII) or column == "vector"]
    if bad:
        raise DataError(f"corpus: column {bad[0]!r} can't be a field of Milvus; letters, digits and _ are expected")
    return chosen


def _fill(client, collection, vectors_NxD, corpus, columns, kind, **options) -> None:
    if client.has_collection(collection):
        client.drop_collection(collection)
    schema = _schema(client, corpus, columns, vectors_NxD.shape[1])
    client.create_collection(collection, schema=schema, **options)
    for rows in _batches(vectors_NxD, corpus, columns):
        client.insert(collection, rows)
    client.flush(collection)
    how, build = client.prepare_index_params(), _build_options(kind, len(vectors_NxD))
    both = {**build, "params": json.dumps(build)}  # a cluster reads the first, Milvus Lite 3 the second
    how.add_index("vector", index_type=kind, metric_type="IP", params=both)
    client.create_index(collection, how)


def _is_scalar(kind: pa.DataType) -> bool:
    types = pa.types
    asked = (types.is_string, types.is_large_string, types.is_boolean, types.is_integer, types.is_floating)
    return any(ask(kind) for ask in asked)


def _schema(client: Any, corpus: pa.Table, columns: Sequence[str], dimension: int) -> Any:
    from pymilvus import DataType

    def kind(column: str) -> dict[str, Any]:
        if pa.types.is_boolean(corpus[column].type):
            return {"datatype": DataType.BOOL}
        if pa.types.is_integer(corpus[column].type):
            return {"datatype": DataType.INT64}
        if pa.types.is_floating(corpus[column].type):
            return {"datatype": DataType.DOUBLE}
        return {"datatype": DataType.VARCHAR, "max_length": MAX_TEXT}

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("product_id", DataType.VARCHAR, is_primary=True, max_length=MAX_TEXT)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    for column in columns:
        schema.add_field(column, nullable=True, **kind(column))
    return schema


def _batches(vectors_NxD: np.ndarray, corpus: pa.Table, columns: Sequence[str], rows: int = 1000):
    """Rows as Milvus takes them, a thousand at a time; missing values as None."""
    for start in range(0, corpus.num_rows, rows):
        values = corpus.select(["product_id", *columns]).slice(start, rows).to_pylist()
        for row, (value, vector_D) in enumerate(zip(values, vectors_NxD[start : start + rows], strict=True)):
            for column in columns:
                value[column] = None if is_missing(value[column]) else value[column]
                if isinstance(value[column], str) and len(value[column].encode()) > MAX_TEXT:
                    raise DataError(
                        f"corpus row {start + row}: {column} has over {MAX_TEXT:,} bytes, Milvus's limit; "
                        "leave the column out, or shorten it"
                    )
            value["vector"] = np.asarray(vector_D, np.float32)
        yield values


def _build_options(kind: str, count: int) -> dict[str, int]:
    """About 4 sqrt(N) lists of 39 vectors or more (what k-means needs); 16 neighbours a node."""
    if kind == "IVF_FLAT":
        return {"nlist": int(max(1, min(4 * count**0.5, count / 39)))}
    return {"M": 16, "efConstruction": 200} if kind == "HNSW" else {}


def _probes(count: int) -> int:
    """Lists to look at: an eighth of them."""
    return max(1, _build_options("IVF_FLAT", count)["nlist"] // 8)


def _literal(value: Value) -> str:
    """A value as a literal of Milvus's filter language."""
    if isinstance(value, str):
        if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", value):
            raise UserError(f"filter value {value!r} holds a control character, which Milvus can't compare with")
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return str(value).lower() if isinstance(value, bool) else repr(value)
    raise UserError(f"filter value {value!r}; text, a number or a truth value is expected")
