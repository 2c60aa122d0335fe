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
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from interleaved import arguments
from pyarrow import parquet

from gcl_toolkit import NDCG, Fields, RankedData, TrainConfig, evaluate, load, train
from gcl_toolkit.model import GCLModel
from gcl_toolkit.sources.clicks import ClickConfig, agreement, read_clicks
from gcl_toolkit.sources.clicks.simulate import Visitors, simulate
from gcl_toolkit.statistics import paired

SPLITS = ("in_domain", "novel_query", "novel_document", "zero_shot")
OURS = "debiased"
RANKERS = {
    "pushes words it likes": Visitors(ranker=1.0, taste=1.0),
    "errs at random": Visitors(ranker=1.0),
}
MARGINS: dict[tuple[str, str], dict[str, float]] = {}


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


def truth(data: RankedData) -> pd.DataFrame:
    query = np.array(data.queries["query"].to_pylist(), object)[data.pairs.query]
    return pd.DataFrame({"query": query, "product_id": data.product_ids[data.pairs.product], "score": data.pairs.score})


def trainings(data: RankedData, log: Path) -> dict[str, tuple[RankedData, dict]]:
    """What each training learns from, and the settings in which it isn't the default."""
    table, raw = (read_clicks(log, config=ClickConfig(propensity=how)).table for how in ("harvest", "none"))
    rate, clicked = table.groupby("query")["rate"], table[table["interactions"] > 0]
    binary = scored(data, clicked, clicked["score"] * 0 + 100)
    return {
        OURS: (scored(data, table, table["score"]), {}),
        "clicks per impression": (scored(data, table, (100 * table["rate"] / rate.transform("max")).clip(lower=1)), {}),
        "clicks per impression, by rank": (scored(data, table, 101 - rate.rank(ascending=False)), {}),
        "clicks per impression, shrunk": (scored(data, raw, raw["score"]), {}),
        "debiased, by rank": (scored(data, table, 101.0 - table["position"]), {}),
        "clicked or not": (binary, {"loss": "matrix", "weighting": "constant"}),
        "clicked or not, published CLIP": (binary, {"loss": "gcl", "weighting": "constant", "mask": False}),
    }


def gains(folder: Path, seeds: int, steps: int, **size: int) -> None:
    """For each ranker: how the scores agree with the truth, and the NDCG@10 of what is trained on them."""
    shops = [load("shop", seed=seed, size=8, **size) for seed in range(seeds)]
    for ranker, visitors in RANKERS.items():
        taus, found = [], {}
        for seed, splits in enumerate(shops):
            data, log = splits["in_domain"], folder / "log.parquet"
            parquet.write_table(simulate(data, replace(visitors, seed=seed)), log)
            taus.append([agreement(read_clicks(log).table, truth(data), of) for of in ("relevance", "rate")])
            for name, (pairs, settings) in trainings(data, log).items():
                model = GCLModel("small", right=Fields(title=1.0), seed=seed)
                for _ in train(model, pairs, TrainConfig(steps=steps, seed=seed, **settings)):
                    pass
                for key in product(("dev", "test"), SPLITS):
                    values = evaluate(model, splits[key[1]], [NDCG @ 10], division=key[0])["NDCG@10"]
                    found.setdefault(name, {}).setdefault(key, []).append(values)
        tell(ranker, np.mean(taus, axis=0), found, sure=seeds >= 5)


def tell(ranker: str, taus: np.ndarray, found: dict, sure: bool) -> None:
    """Print what was found, and check the margins."""
    print(
        f"\nA ranker that {ranker}. Kendall's tau with the truth: debiased {taus[0]:.3f}, per impression {taus[1]:.3f}"
    )
    ours = found[OURS]
    for name, theirs in found.items():
        dev = np.mean([np.mean([values.mean() for values in theirs["dev", split]]) for split in SPLITS])
        print(
            f"\n  {name}: {dev:.3f} on dev queries, mean of the splits" + (f"; {OURS} over it:" if name != OURS else "")
        )
        for split in SPLITS if name != OURS else ():
            difference = paired(ours["test", split], theirs["test", split])
            print(f"    {split:15s} {difference}", flush=True)
            margin = MARGINS.get((ranker, name), {}).get(split, -1.0)
            assert not sure or difference.low > margin, f"{ranker}, {name}, {split}: above {margin} is expected"


if __name__ == "__main__":
    small = arguments(__doc__.splitlines()[0]).small
    with tempfile.TemporaryDirectory() as temporary:
        pipeline(Path(temporary), 100_000 if small else 10_000_000)
        size = {"products": 300, "queries": 60, "per_query": 25} if small else {"products": 2000, "queries": 400}
        gains(Path(temporary), 2 if small else 5, 20 if small else 240, **size)
