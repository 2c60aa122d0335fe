"""Click logs: 10 million rows through `gcl clicks`, and what training on the scores brings.

OMP_NUM_THREADS=1 python benchmarks/clicks.py [--small]    (the log lies in the system's temporary folder)

The second part: five shops whose visitors look at position k with probability 1 / k, and two rankers that know nothing
of relevance: one pushes words that it likes, the other errs at random. Trainings on the same log (debiased scores;
clicks per impression, as they are and by rank; clicked or not), titles only, the same model and steps, judged by the
true lists.
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

from gcl_toolkit import NDCG, Fields, RankedData, TrainConfig, evaluate, load, train
from gcl_toolkit.data.sources.clicks import agreement, read_clicks
from gcl_toolkit.data.sources.clicks.simulate import Visitors, simulate
from gcl_toolkit.measure.statistics import paired
from gcl_toolkit.models.model import GCLModel

SPLITS = ("in_domain", "novel_query", "novel_document", "zero_shot")
OURS, RAW, BINARY = "debiased", "clicks per impression", "clicked or not"
SYSTEM, LUCK = "pushes words it likes", "errs at random"
RANKERS = {SYSTEM: Visitors(ranker=1.0, taste=1.0), LUCK: Visitors(ranker=1.0)}
MARGINS = {
    (SYSTEM, RAW): {"in_domain": 0.015, "novel_query": 0.015, "novel_document": 0.0, "zero_shot": 0.0},
    (SYSTEM, f"{RAW}, by rank"): {"in_domain": 0.02, "novel_query": 0.0},
    (SYSTEM, BINARY): {"in_domain": 0.04, "novel_query": 0.02, "novel_document": 0.01, "zero_shot": 0.0},
    (LUCK, BINARY): {"in_domain": 0.02, "novel_query": 0.01, "novel_document": 0.0},
}
"""The lower ends of the intervals lie above these: (ranker, control) -> split -> NDCG@10."""


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


def truth(data: RankedData) -> pd.DataFrame:
    query = np.array(data.queries["query"].to_pylist(), object)[data.pairs.query]
    return pd.DataFrame({"query": query, "product_id": data.product_ids[data.pairs.product], "score": data.pairs.score})


def scored(data: RankedData, table: pd.DataFrame, score: pd.Series) -> RankedData:
    """The training split with other pairs and scores."""
    id_of = dict(zip(data.queries["query"].to_pylist(), data.query_ids, strict=True))
    pairs = {"query_id": table["query"].map(id_of), "product_id": table["product_id"], "score": score}
    return replace(data, qrels=pa.table({name: np.asarray(column) for name, column in pairs.items()}))


def trainings(data: RankedData, table: pd.DataFrame) -> dict[str, tuple[RankedData, str]]:
    """The pairs and the method of each training."""
    rate, clicked = table.groupby("query")["rate"], table[table["interactions"] > 0]
    binary = scored(data, clicked, clicked["score"] * 0 + 100)
    return {
        OURS: (scored(data, table, table["score"]), "graded"),
        RAW: (scored(data, table, (100 * table["rate"] / rate.transform("max")).clip(lower=1)), "graded"),
        f"{RAW}, by rank": (scored(data, table, 101 - rate.rank(ascending=False)), "graded"),
        f"{OURS}, by rank": (scored(data, table, 101.0 - table["position"]), "graded"),
        BINARY: (binary, "matrix-noscores"),
        f"{BINARY}, clip": (binary, "clip"),
    }


def learn(
    splits: dict[str, RankedData], pairs: RankedData, method: str, config: TrainConfig
) -> dict[tuple[str, str], pd.Series]:
    """NDCG@10 of the queries of each (division, split) after a training on the pairs, by titles."""
    model = GCLModel("small", right=Fields(title=1.0), seed=config.seed)
    for _ in train(model, pairs, method, config):
        pass
    tables = {split: evaluate(model, data, [NDCG @ 10]) for split, data in splits.items()}
    return {
        (division, split): table["NDCG@10"][splits[split].queries["division"].to_numpy() == division]
        for split, table in tables.items()
        for division in ("dev", "test")
    }


def gains(folder: Path, seeds: int, steps: int, **size: int) -> list[str]:
    """For each ranker: how the scores agree with the truth, what is trained on them; the margins that are missed."""
    shops = [load("shop", seed=seed, size=8, **size) for seed in range(seeds)]
    missed = []
    for ranker, visitors in RANKERS.items():
        taus, found = [], {}
        for seed, splits in enumerate(shops):
            data, log = splits["in_domain"], folder / "log.parquet"
            parquet.write_table(simulate(data, replace(visitors, seed=seed)), log)
            table = read_clicks(log).table
            taus.append([agreement(table, truth(data), of) for of in ("relevance", "rate")])
            for name, (pairs, method) in trainings(data, table).items():
                values = learn(splits, pairs, method, TrainConfig(steps=steps, seed=seed))
                found.setdefault(name, []).append(values)
        debiased, raw = np.mean(taus, axis=0)
        print(f"\nA ranker that {ranker}. Kendall's tau with the truth: debiased {debiased:.3f}, raw {raw:.3f}")
        missed += report(ranker, found)
    return missed


def report(ranker: str, found: dict[str, list[dict]]) -> list[str]:
    """Print what was found; the margins that are missed."""
    missed, ours = [], found[OURS]
    for name, theirs in found.items():
        dev = np.mean([values["dev", split].mean() for values in theirs for split in SPLITS])
        print(f"\n  {name}: {dev:.3f} on dev queries{'' if theirs is ours else f'; {OURS} over it on test queries:'}")
        for split in SPLITS if theirs is not ours else ():
            difference = paired(*([values["test", split] for values in side] for side in (ours, theirs)))
            print(f"    {split:15s} {difference}", flush=True)
            margin = MARGINS.get((ranker, name), {}).get(split, -1.0)
            if difference.low <= margin:
                missed.append(f"{ranker}, {name}, {split}: {difference.low:+.3f}, above {margin:+.3f} is expected")
    return missed


if __name__ == "__main__":
    small = arguments(__doc__.splitlines()[0]).small
    with tempfile.TemporaryDirectory() as temporary:
        pipeline(Path(temporary), 100_000 if small else 10_000_000)
        size = {"products": 300, "queries": 60, "per_query": 25} if small else {"products": 2000, "queries": 400}
        missed = gains(Path(temporary), 2 if small else 5, 20 if small else 100, **size)
    assert small or not missed, missed
