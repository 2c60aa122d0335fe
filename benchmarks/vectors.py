"""An adapter on 5 million products of 512 numbers, in two halves as in MarqoGS: seconds to train on one and to evaluate
on both, and the peak of memory with mapped files.

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

from gcl_toolkit import NDCG, Fields, GCLModel, train
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.data.vectors import VectorFolder, fingerprints, with_vectors
from gcl_toolkit.measure.evaluate import measure_ranking, rankings

SIZE, SHARD = 512, 1 << 16


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def make(folder: Path, products: int, queries: int) -> dict[str, RankedData]:
    """A folder of vectors, and the data in two halves of the products."""
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
    corpus, half = pa.table({"product_id": ids, "title": titles}), products // 2
    return {
        name: RankedData(texts, corpus.slice(start, half), qrels.slice(start, half), name)
        for name, start in (("in_domain", 0), ("novel_document", half))
    }


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
        data = with_vectors(data, Path(place) / "vectors")
        print(f"opened in {time.perf_counter() - started:.0f} s, peak {peak():.1f} GB", flush=True)
        started, model = time.perf_counter(), GCLModel("vectors", right=Fields(title=1))
        for _ in train(model, data["in_domain"], steps=given.steps):
            pass
        print(f"{given.steps} steps in {time.perf_counter() - started:.0f} s, peak {peak():.1f} GB", flush=True)
        started = time.perf_counter()
        for split, part, rows in rankings(model, {name: part.sample_queries(2000) for name, part in data.items()}):
            mean = measure_ranking(rows, part, [NDCG @ 10])["NDCG@10"].mean()
            print(f"{split}: 2,000 queries, NDCG@10 {mean:.3f}, peak {peak():.1f} GB", flush=True)
        print(f"both halves in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
