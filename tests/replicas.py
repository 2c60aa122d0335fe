"""A small copy of Marqo/marqo-GS-10M in the layout that the hub has, for the server of `hub.py`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from PIL import Image
from pyarrow import parquet

MARQO = "datasets/Marqo/marqo-GS-10M"
PARTS = {"in_domain": (0, 0), "novel_document": (0, 1), "novel_query": (1, 0), "zero_shot": (1, 1)}
"""Split -> part of the queries (0: four fifths, 1: held out) and half of the products."""
WORDS = (
    "amber ancient azure black blue bold brass bright cotton cream dark fine gold green grey heavy indigo light linen",
    "armchair basket bed blanket bottle bowl box brush candle chair clock cup curtain desk door dress fan fork frame",
    "garden kitchen office outdoor travel winter summer party school wedding bath bedroom hall studio camp city home",
)
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_KINDS = {"position": "int64", "score_linear": "int64", "score_reciprocal": "float64", "no_score": "int64"}


def marqo_replica(
    folder: str | Path,
    queries: int = 500,
    sorted_by_query: bool = True,
    row_group: int = 100,
    listed: int = 12,
    shards: int = 2,
    pictures: bool = True,
    seed: int = 0,
) -> Path:
    """Write folder/datasets/Marqo/marqo-GS-10M (README.md, data/*.parquet) and return that path.

    Each query lists from listed / 2 to 3 listed / 2 of a half's products, two queries share a product, and pictures
    have 2 to 5 kB each. Sorted by the query's text and the position, or shuffled.
    """
    repository = Path(folder) / MARQO
    (repository / "data").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    texts, pool = query_texts(queries), _pictures(rng) if pictures else []
    sizes = {}
    for split, (part, half) in PARTS.items():
        table = _rows(texts, part, half, listed)
        order = np.lexsort((table["position"], pc.rank(table["query"]))) if sorted_by_query else None
        table = table.take(pa.array(rng.permutation(table.num_rows) if order is None else order))
        sizes[split] = (table.num_rows, 0)
        step = -(-table.num_rows // shards)
        for shard in range(shards):
            rows = table.slice(shard * step, step)
            if pictures:
                rows = rows.add_column(0, "image", _images(rows["product_id"], pool))
            sizes[split] = (table.num_rows, sizes[split][1] + rows.nbytes)
            name = f"{split}-{shard:05}-of-{shards:05}.parquet"
            parquet.write_table(rows, repository / "data" / name, row_group_size=row_group)
    (repository / "README.md").write_text(_readme(rows.schema, sizes))
    return repository


def query_texts(count: int) -> pa.Array:
    words = [group.split() for group in WORDS]
    number = np.arange(count)
    parts = []
    for group in words:
        parts.append(pa.array(group).take(pa.array(number % len(group))))
        number = number // len(group)
    tail = pc.if_else(
        pa.array(number == 0), "", pc.binary_join_element_wise("no", pc.cast(pa.array(number), "string"), " ")
    )
    return pc.utf8_trim(pc.binary_join_element_wise(*parts, tail, " "), " ")


def _rows(texts: pa.Array, part: int, half: int, listed: int) -> pa.Table:
    """A split's rows but for the pictures, query by query."""
    number = np.arange(len(texts))
    number = number[(number % 5 == 4) == (part == 1)]
    length = listed // 2 + number * 7919 % (listed + 1)
    query = np.repeat(number, length)
    position = np.arange(len(query)) - np.repeat(np.cumsum(length) - length, length)
    step, products = max(listed // 2, 1), max(listed // 2, 1) * len(texts)
    product = (query * step + position) % products
    product_id, home = pc.cast(pa.array(10**8 * (half + 1) + product), "string"), texts.take(pa.array(product // step))
    query_id = pc.cast(pa.array(query), "string")
    score = np.maximum(101 - (position + 1), 1)
    return pa.table(
        {
            "query": texts.take(pa.array(query)),
            "product_id": product_id,
            "position": pa.array(position + 1),
            "title": pc.binary_join_element_wise(home, pc.cast(pa.array(product), "string"), " article "),
            "pair_id": pc.binary_join_element_wise(query_id, product_id, "_"),
            "score_linear": pa.array(score),
            "score_reciprocal": pa.array(1 / (position + 1)),
            "no_score": pa.array(np.ones(len(query), np.int64)),
            "query_id": query_id,
        }
    )


def _pictures(rng: np.random.Generator, count: int = 200) -> list[bytes]:
    """Random JPEGs of 2 to 5 kB."""
    pool = []
    for size in rng.integers(28, 50, count):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).save(file, "JPEG", quality=90)
        pool.append(file.getvalue())
    return pool


def _images(products: pa.ChunkedArray, pool: list[bytes]) -> pa.Array:
    """A picture for each product: one of the pool, with the product's id after its end, so that no two are equal."""
    ids = products.to_pylist()
    encoded = pa.array([pool[int(each) % len(pool)] + each.encode() for each in ids], pa.binary())
    return pa.StructArray.from_arrays([encoded, pa.array([f"{each}.jpg" for each in ids])], fields=[*IMAGE])


def _readme(schema: pa.Schema, sizes: dict[str, tuple[int, int]]) -> str:
    features = [{"name": n, "dtype": "image" if n == "image" else _KINDS.get(n, "string")} for n in schema.names]
    splits = [{"name": name, "num_bytes": size, "num_examples": rows} for name, (rows, size) in sizes.items()]
    files = [{"split": name, "path": f"data/{name}-*"} for name in sizes]
    total = sum(size for _, size in sizes.values())
    info = {"features": features, "splits": splits, "download_size": total, "dataset_size": total}
    card = {"license": "apache-2.0", "language": ["en"], "dataset_info": info}
    card["configs"] = [{"config_name": "default", "data_files": files}]
    return f"---\n{yaml.safe_dump(card, sort_keys=False)}---\n\n# A replica of Marqo-GS-10M\n"
