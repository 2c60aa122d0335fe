"""The texts of MarqoGS-10M, all rows: load, check, and BM25 on 2,000 queries; seconds and gigabytes of each.

    python benchmarks/marqo_gs.py --folder /tmp/marqo --queries 100_000

The rows are generated in the hub's layout (`tests/replicas.py`): 100,000 queries with 98 products each in two halves,
as the real set has, but without pictures. Every step is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def generate(folder: Path, queries: int) -> str:
    from replicas import marqo_replica

    marqo_replica(folder, queries, listed=49, shards=16, pictures=False, row_group=1000)
    return f"{sum(file.stat().st_size for file in folder.rglob('*.parquet')) / 1e6:,.0f} MB"


def load(folder: Path, _: int) -> str:
    splits = _splits(folder)
    return "; ".join(f"{name} {data.qrels.num_rows:,} pairs" for name, data in splits.items())


def check(folder: Path, _: int) -> str:
    from gcl_toolkit.data.sources.check import check

    facts, problems = check(_repository(folder), fields="title")
    return f"{len(facts)} facts, {len(problems)} problems"


def bm25(folder: Path, _: int) -> str:
    """NDCG@10 of 2,000 test queries of in_domain against its full half of the products."""
    from gcl_toolkit.data.fields import Fields
    from gcl_toolkit.measure import baselines
    from gcl_toolkit.measure.evaluate import NDCG, measure_ranking

    data = _splits(folder)["in_domain"].only("test").sample_queries(2_000)
    index = baselines.BM25(baselines.texts(data.corpus, Fields(title=1)))
    top = index.top_k(baselines.texts(data.queries, Fields(query=1)), 100)
    return f"{data.corpus.num_rows:,} products, NDCG@10 {measure_ranking(top, data, [NDCG @ 10])['NDCG@10'].mean():.3f}"


STEPS = {step.__name__: step for step in (generate, load, check, bm25)}


def _repository(folder: Path) -> Path:
    from replicas import MARQO

    return folder / MARQO


def _splits(folder: Path) -> dict:
    from gcl_toolkit.data.sources import load

    return load(_repository(folder), fields="title")


def main(folder: Path = Path("/tmp/marqo"), queries: int = 100_000, step: str = "") -> None:
    if step:
        start = time.perf_counter()
        result = STEPS[step](folder, queries)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps({"result": result, "seconds": time.perf_counter() - start, "peak": peak}))
        return
    for name in STEPS:
        command = [sys.executable, __file__, "--folder", str(folder), "--queries", str(queries), "--step", name]
        done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        print(f"{name:<10} {done['seconds']:>7.1f} s {done['peak']:>6.2f} GB  {done['result']}", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
