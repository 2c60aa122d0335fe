"""Peak memory where the data is larger: a search in 5,000,000 x 512 float16 embeddings (5.1 GB, opened by mmap), and
reading MarqoGS's parquet with 4 GB of images.

OMP_NUM_THREADS=1 python benchmarks/memory.py [--small]    (writes the files into the system's temporary folder)
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from interleaved import arguments
from pyarrow import parquet

from gcl_toolkit.data.sources import load
from gcl_toolkit.measure.search import top_k

DIMENSION, BLOCK, QUERIES, K = 512, 50_000, 500, 1000


def write_embeddings(path: Path, rows: int) -> np.ndarray:
    """Blocks of one random block with the signs of random dimensions turned: unit rows, all different, cheap."""
    rng = np.random.default_rng(0)
    block = rng.standard_normal((BLOCK, DIMENSION), np.float32)
    bits = (block / np.linalg.norm(block, axis=1, keepdims=True)).astype(np.float16).view(np.uint16)
    del block
    stored = np.lib.format.open_memmap(path, "w+", np.float16, (rows, DIMENSION))
    for start in range(0, rows, BLOCK):
        stored.view(np.uint16)[start : start + BLOCK] = bits ^ (rng.integers(0, 2, DIMENSION, np.uint16) << 15)
    stored.flush()
    return np.load(path, mmap_mode="r")


def resident() -> tuple[float, float]:
    """(the process's own memory, pages of mapped files) in GB; the kernel takes the latter back when it needs room."""
    rows = dict(row.split(":") for row in Path("/proc/self/status").read_text().splitlines())
    return tuple(float(rows[name].split()[0]) / 1e6 for name in ("RssAnon", "RssFile"))


class Watch(threading.Thread):
    """Samples `resident` every 20 ms."""

    def __init__(self):
        super().__init__(daemon=True)
        self.samples, self.over = [resident()], threading.Event()

    def run(self):
        while not self.over.wait(0.02):
            self.samples.append(resident())


def check(found, corpus: np.ndarray, queries: np.ndarray) -> None:
    """Three queries by brute force in float64, block by block; every query's own row is its best."""
    scores, rows = found
    exact = np.concatenate(
        [queries[:3] @ corpus[start : start + BLOCK].T.astype(np.float64) for start in range(0, len(corpus), BLOCK)], 1
    )
    assert np.abs(scores[:3] + np.sort(-exact, axis=1)[:, :K]).max() <= 1e-6
    assert np.abs(scores[:3] - np.take_along_axis(exact, rows[:3], 1)).max() <= 1e-6
    assert (rows[:, 0] == np.arange(len(queries)) * (len(corpus) // QUERIES)).all()


def watched(work):
    """(what `work` returns, own memory before, own memory at its peak, pages of files at their peak), GB."""
    before, watch = resident(), Watch()
    watch.start()
    result = work()
    watch.over.set()
    watch.join()
    own, of_files = (max(column) for column in zip(*watch.samples, strict=True))
    return result, before[0], own, of_files


def search(folder: Path, rows: int) -> None:
    corpus = write_embeddings(folder / "corpus.npy", rows)
    queries = corpus[:: rows // QUERIES].astype(np.float32)
    started = time.process_time()
    found, before, own, of_files = watched(lambda: top_k(queries, corpus, K))
    seconds = time.process_time() - started
    check(found, corpus, queries)
    print(f"\n{rows:,} x {DIMENSION} float16 ({rows * DIMENSION * 2 / 1e9:.1f} GB on disk), {QUERIES} queries, k = {K}")
    print(f"own memory before the search: {before:.2f} GB, at its peak: {own:.2f} GB; bar < 4 GB: {own < 4}")
    print(f"pages of the mapped file at the peak: {of_files:.2f} GB; search: {seconds:.1f} s of CPU")


def images(folder: Path, count: int, size: int = 40_000) -> None:
    """Eight shards of random bytes as images, read, and some rows of them compared."""
    rng, each = np.random.default_rng(0), count // 8
    for shard in range(8):
        ids = range(shard * each, (shard + 1) * each)
        pictures = [{"bytes": bytes([n % 251]) + rng.bytes(size - 1), "path": f"{n}.jpg"} for n in ids]
        names = {"query": [f"query {n // 100}" for n in ids], "product_id": list(ids), "title": [f"t {n}" for n in ids]}
        table = pa.table({**names, "score_linear": [100 - n % 100 for n in ids], "image": pictures})
        parquet.write_table(table, folder / f"in_domain-{shard:05}-of-00008.parquet", row_group_size=500)
    del pictures, table
    pa.default_memory_pool().release_unused()
    splits, before, own, of_files = watched(lambda: load(folder))
    column = splits["in_domain"].corpus["image"]
    assert all(column[n].as_py()["bytes"][0] == n % 251 for n in range(0, count, max(1, count // 50)))
    print(f"\n{count:,} images, {count * size / 1e9:.1f} GB of parquet in 8 shards, read by load()")
    print(f"own memory before: {before:.2f} GB, at its peak: {own:.2f} GB; pages of files: {of_files:.2f} GB")


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    torch.set_num_threads(1)
    for measure, rows in (
        (images, 800 if options.small else 100_000),
        (search, 100_000 if options.small else 5_000_000),
    ):
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), rows)


if __name__ == "__main__":
    main()
