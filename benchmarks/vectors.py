"""An adapter on 5 million products of 512 numbers: seconds to train and to evaluate, and the peak of memory.

    python benchmarks/vectors.py --products 5_000_000

Each query lists every QUERIES-th product, whose vector is its own place in 16 hidden dimensions, mapped, plus noise.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from gcl_toolkit import NDCG, Fields, GCLModel, evaluate, train
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.data.vectors import VectorFolder, fingerprints

SIZE, SHARD = 512, 1 << 16


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def make(folder: Path, products: int, queries: int) -> RankedData:
    """A folder of vectors and the data."""
    rng, vectors = np.random.default_rng(0), VectorFolder(folder)
    hidden = rng.normal(size=(16, SIZE)).astype(np.float32)
    place_Qx16 = rng.normal(size=(queries, 16)).astype(np.float32)
    ids = pa.array([f"p{row}" for row in range(products)])
    titles = pa.array(np.full(products, "x")).cast(pa.string())
    for name, side, count in (("query", "left", queries), ("title", "right", products)):
        vectors.begin(f"{name}_vector", {"side": side, "of": name, "encoder": {"name": "made", "imported": "here"}})
        for start in range(0, count, SHARD):
            rows = min(SHARD, count - start)
            place = place_Qx16[np.arange(start, start + rows) % queries]
            noise = rng.normal(size=(rows, SIZE)).astype(np.float32)
            key = pa.array([f"q{start + row}" for row in range(rows)]) if side == "left" else ids.slice(start, rows)
            marks = fingerprints(pa.chunked_array([titles.slice(0, rows)]))
            vectors.add(f"{name}_vector", pa.table({"id": key, "fingerprint": marks}), place @ hidden + noise)
        vectors.finish(f"{name}_vector")
    names = pa.array([f"q{row}" for row in range(queries)])
    query, scores = names.take(pa.array(np.arange(products) % queries)), rng.integers(1, 101, products).astype(float)
    qrels = pa.table({"query_id": query, "product_id": ids, "score": scores})
    texts = pa.table({"query_id": names, "query": pa.array(["x"] * queries)})
    return RankedData(texts, pa.table({"product_id": ids, "title": titles}), qrels, "made")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", type=int, default=5_000_000)
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        data = make(Path(place) / "vectors", given.products, given.queries)
        print(
            f"{given.products:,} products made in {time.perf_counter() - started:.0f} s, peak {peak():.1f} GB",
            flush=True,
        )
        started = time.perf_counter()
        data = VectorFolder.open(Path(place) / "vectors").add_to(data)
        print(f"opened in {time.perf_counter() - started:.0f} s, peak {peak():.1f} GB", flush=True)
        started, model = time.perf_counter(), GCLModel("vectors", right=Fields(title=1))
        for _ in train(model, data, steps=given.steps):
            pass
        print(f"{given.steps} steps in {time.perf_counter() - started:.0f} s, peak {peak():.1f} GB", flush=True)
        started = time.perf_counter()
        table = evaluate(model, data.sample_queries(2000), [NDCG @ 10])
        mean = table["NDCG@10"].mean()
        print(f"2,000 queries in {time.perf_counter() - started:.0f} s, NDCG@10 {mean:.3f}, peak {peak():.1f} GB")


if __name__ == "__main__":
    main()
