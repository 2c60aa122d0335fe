"""Peak memory of a search in embeddings that lie on disk: 5,000,000 x 512 float16, 5.1 GB, opened by mmap.

OMP_NUM_THREADS=1 python benchmarks/memory.py [--small]    (writes the file into the system's temporary folder)
"""

from __future__ import annotations

import resource
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from interleaved import arguments

from gcl_toolkit.search import top_k

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


def main() -> None:
    said = arguments(__doc__.splitlines()[0])
    torch.set_num_threads(1)
    rows = 100_000 if said.small else 5_000_000
    folder = Path(tempfile.mkdtemp())
    try:
        corpus = write_embeddings(folder / "corpus.npy", rows)
        queries = corpus[:: rows // QUERIES].astype(np.float32)
        before, watch = resident(), Watch()
        watch.start()
        started = time.process_time()
        found = top_k(queries, corpus, K)
        seconds = time.process_time() - started
        watch.over.set()
        watch.join()
        own, of_files = (max(column) for column in zip(*watch.samples, strict=True))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        check(found, corpus, queries)
    finally:
        shutil.rmtree(folder)
    print(f"\n{rows:,} x {DIMENSION} float16 ({rows * DIMENSION * 2 / 1e9:.1f} GB on disk), {QUERIES} queries, k = {K}")
    print(f"own memory before the search: {before[0]:.2f} GB, at its peak: {own:.2f} GB; bar < 4 GB: {own < 4}")
    print(f"pages of the mapped file at the peak: {of_files:.2f} GB; together (peak RSS): {peak:.2f} GB")
    print(f"search: {seconds:.1f} s of CPU")


if __name__ == "__main__":
    main()
