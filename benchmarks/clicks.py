"""Click logs: 10 million rows through `gcl clicks`, and what training on the scores brings.

OMP_NUM_THREADS=1 python benchmarks/clicks.py [--small]    (the log lies in the system's temporary folder)

The second part: five shops, each with a poor ranker and visitors who look at position k with probability 1 / k. Three
trainings on the same log (debiased scores; scores by clicks per impression; clicked or not), the same model and steps,
judged by the true lists of test queries.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from interleaved import arguments
from pyarrow import parquet

from gcl_toolkit import NDCG, RankedData, TrainConfig, evaluate, load, train
from gcl_toolkit.model import GCLModel
from gcl_toolkit.sources.clicks import agreement, read_clicks
from gcl_toolkit.sources.clicks.simulate import Visitors, simulate
from gcl_toolkit.statistics import paired

SPLITS = ("in_domain", "novel_query", "novel_document", "zero_shot")


def large_log(path: Path, rows: int) -> int:
    """Rows of a log of products without pictures: lists of 50 products, 20 of them shown a visit."""
    queries = max(rows // 20_000, 10)
    query, place = (column.ravel() for column in np.indices((queries, 50)))
    data = RankedData(
        pa.table({"query_id": [f"q{q}" for q in range(queries)], "query": [f"query {q}" for q in range(queries)]}),
        pa.table({"product_id": [f"p{p}" for p in range(10_000)], "title": ["t"] * 10_000}),
        pa.table(
            {
                "query_id": [f"q{q}" for q in query],
                "product_id": [f"p{p}" for p in (query * 7919 + place * 13) % 10_000],
                "score": 100.0 - place,
            }
        ),
    )
    visits = rows // queries // 20
    log = simulate(data, Visitors(visits=visits, shown=20, ranker=1.0))
    parquet.write_table(log, path)
    return log.num_rows


def pipeline(folder: Path, rows: int) -> None:
    count = large_log(folder / "log.parquet", rows)
    started = time.perf_counter()
    command = [sys.executable, "-m", "gcl_toolkit.cli", "clicks", folder / "log.parquet", "--out", folder / "out"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    theta = json.loads((folder / "out" / "report.json").read_text())["propensities"]
    error = max(abs(row["value"] - 1 / row["position"]) for row in theta)
    assert error < (0.02 if rows >= 1_000_000 else 0.1), error
    print(
        f"\n{count:,} rows: {seconds:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of CPU (bar < 120 s), peak "
        f"{used.ru_maxrss / 1e6:.2f} GB (bar < 4 GB); propensities of 20 positions within {error:.4f}"
    )


def scored(data: RankedData, table: pd.DataFrame, score: pd.Series) -> RankedData:
    """The training split with other pairs and scores."""
    id_of = dict(zip(data.queries["query"].to_pylist(), data.query_ids, strict=True))
    pairs = {"query_id": table["query"].map(id_of), "product_id": table["product_id"], "score": score}
    return replace(data, qrels=pa.table({name: np.asarray(column) for name, column in pairs.items()}))


def gains(folder: Path, seeds: int, steps: int, **size: int) -> None:
    found: dict[str, dict[str, list[pd.Series]]] = {}
    taus = []
    for seed in range(seeds):
        splits = load("shop", seed=seed, **size)
        visible = splits["in_domain"]
        parquet.write_table(simulate(visible, Visitors(visits=100, ranker=1.0, seed=seed)), folder / "log.parquet")
        clicks = read_clicks(folder / "log.parquet")
        table = clicks.table
        query = np.array(visible.queries["query"].to_pylist(), object)[visible.pairs.query]
        ids = visible.product_ids[visible.pairs.product]
        truth = pd.DataFrame({"query": query, "product_id": ids, "score": visible.pairs.score})
        taus.append([agreement(table, truth, column) for column in ("relevance", "rate")])
        by_rate = 101 - table.groupby("query")["rate"].rank(ascending=False, method="first")
        clicked = table[table["interactions"] > 0]
        trainings = {
            "GCL, debiased": (scored(visible, table, table["score"]), "auto"),
            "GCL, clicks per impression": (scored(visible, table, by_rate.clip(lower=1)), "auto"),
            "clicked or not": (scored(visible, clicked, clicked["score"] * 0 + 100), "constant"),
        }
        for name, (data, weighting) in trainings.items():
            model = GCLModel("small", seed=seed)
            for _ in train(model, data, TrainConfig(weighting=weighting, steps=steps, seed=seed)):
                pass
            for split in SPLITS:
                values = evaluate(model, splits[split], [NDCG @ 10], division="test")["NDCG@10"]
                found.setdefault(name, {}).setdefault(split, []).append(values)
    debiased, raw = np.mean(taus, axis=0)
    print(f"\nKendall's tau with the true order, {seeds} shops: debiased {debiased:.3f}, per impression {raw:.3f}")
    assert debiased > raw
    ours = found.pop("GCL, debiased")
    for name, theirs in found.items():
        print(f"\nNDCG@10 on the true lists, GCL on debiased scores over {name}:")
        for split in SPLITS:
            print(f"  {split:15s} {paired(ours[split], theirs[split])}")


if __name__ == "__main__":
    small = arguments(__doc__.splitlines()[0]).small
    with tempfile.TemporaryDirectory() as temporary:
        pipeline(Path(temporary), 100_000 if small else 10_000_000)
        size = {"products": 300, "queries": 60, "per_query": 25} if small else {"products": 2000, "queries": 400}
        gains(Path(temporary), 2 if small else 5, 20 if small else 240, **size)
