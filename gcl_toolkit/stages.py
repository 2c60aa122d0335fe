"""One stage or two: GCL alone against a first stage with a re-ranker, by quality, latency and memory.

Latency is one query at a time in one thread of the processor, after a warm-up: read the query, search the whole corpus
exactly, re-rank the first k. It is told as processor time, which is the wall time where nothing else runs. What a
product alone decides is computed in advance for every system: embeddings, the BM25 index, the re-ranker's product side.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from gcl_toolkit.baselines import BM25, texts
from gcl_toolkit.errors import DataError, UserError, unknown
from gcl_toolkit.evaluate import DEPTH, measure_ranking
from gcl_toolkit.fields import Fields
from gcl_toolkit.metrics import NDCG
from gcl_toolkit.model import GCLModel
from gcl_toolkit.ranked_data import RankedData
from gcl_toolkit.rerank import OracleReranker, RerankConfig, Reranker, make_reranker, rerank
from gcl_toolkit.runs import load_model
from gcl_toolkit.search import top_k
from gcl_toolkit.study import World
from gcl_toolkit.summary import averages, gain

GCL = "gcl-matrix"
FIRST_STAGES = ("bm25", "clip", "clip-top", GCL)
METRIC = NDCG @ 10


@dataclass(frozen=True)
class StagesConfig:
    """What is compared, and how the re-ranker is trained."""

    split: str = "zero_shot"
    """The split whose queries and corpus are taken."""
    division: str = "test"
    """dev, test or all queries; which systems the finding tells of is chosen on the other ones."""
    depths: tuple[int, ...] = (10, 20, 50, 100, 500)
    """How many products the second stage re-orders."""
    reranker: str = "small"
    """small (from scratch, pictures and texts), or a CrossEncoder's name or folder (texts only)."""
    steps: int | None = None
    """Training steps of the re-ranker; None: as many as the study's methods."""
    timed: int = 200
    """How often each system is timed; the queries come again where there are fewer."""

    def __post_init__(self):
        if self.timed < 1 or not self.depths or min(self.depths) < 1:
            raise UserError(f"timed is {self.timed}, depths are {list(self.depths)}; numbers >= 1 are expected")


@dataclass(frozen=True)
class System:
    """A first stage, alone or with a second stage that re-orders its first `depth`."""

    first: str
    second: str = ""
    depth: int = 10

    def __str__(self) -> str:
        return f"{self.first} + {self.second} @ {self.depth}" if self.second else self.first


def systems(methods: Sequence[str], depths: Sequence[int]) -> list[System]:
    """Every first stage among the methods: alone, with the re-ranker and with the oracle at each depth."""
    seconds = [(second, depth) for second in ("re-ranker", "oracle") for depth in depths]
    return [
        system
        for first in FIRST_STAGES
        if first in methods
        for system in (System(first), *(System(first, second, depth) for second, depth in seconds))
    ]


def stages(
    study: str | Path,
    worlds: Sequence[World],
    config: StagesConfig | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Train a re-ranker for each world and seed of a study folder, and compare; {"finding", "systems", ...} for JSON.

    `worlds` are those the study was made of, which is checked. Quality is over all worlds and seeds; latency and
    memory are of the first. progress(what, done, total) is called while a re-ranker learns.
    """
    folder, config = Path(study), config or StagesConfig()
    said = _settings(folder)
    steps = config.steps or said["train"]["steps"]
    compared, tables = systems(said["methods"], config.depths), []
    costs: dict[str, dict[str, float]] = {}
    for world in worlds:
        if config.split not in world.evaluated():
            raise unknown("split", config.split, world.evaluated())
        data = world.evaluated()[config.split]
        for seed in range(said["seeds"]):
            firsts = _first_stages(folder / "runs" / world.name, seed, said, data, config.split)
            second = make_reranker(config.reranker, said["left"], said["right"], seed=seed)
            for record in second.train(world.splits["in_domain"], RerankConfig(steps, seed=seed)):
                if progress:
                    progress(f"{world.name} seed {seed}", record["step"], steps)
            table = _per_query(compared, firsts, second, data).assign(world=world.name, seed=seed, split=config.split)
            tables.append(table)
            costs = costs or _costs(compared, firsts, second, data, config)
    table = pd.concat(tables, ignore_index=True)
    rows, chosen = _rows(compared, table, costs, config), _best_of_other_queries(table, config)
    told = {"metric": str(METRIC), "config": {**asdict(config), "steps": steps}, "chosen": chosen, "systems": rows}
    return {"finding": finding(rows, chosen, config), **told}


def finding(rows: Sequence[Mapping], chosen: Mapping[str, str], config: StagesConfig) -> str:
    """What was found, in a sentence or two, from the rows of `stages`; chosen: {"rival": system, "own": system}."""
    by_name = {row["system"]: row for row in rows}
    alone = by_name[GCL]
    parts = [
        f"On {alone['queries']:,} {config.division} queries of {config.split}, GCL alone reaches {METRIC} "
        f"{_interval(alone)} in {alone['p50_ms']:.2f} ms (median)"
    ]
    for kind, words in (("rival", "the best re-ranking of another first stage"), ("own", "that of GCL itself")):
        if kind in chosen:
            row = by_name[chosen[kind]]
            parts.append(
                f"{words}, {row['system']}, reaches {_interval(row)} in {row['p50_ms']:.2f} ms: "
                f"{_interval(row['difference'], '+')}, {_verdict(row['difference'])}"
            )
    better = [row for row in rows if not row["second"] and row["mean"] > alone["mean"]]
    parts += [f"{row['system']} alone reaches {_interval(row)}, more than GCL alone" for row in better]
    chosen_on = {"test": "dev", "dev": "test"}.get(config.division, "the same")
    return f"{'; '.join(parts)}. Which systems to tell of was chosen on {chosen_on} queries."


# -- first stages ------------------------------------------------------------------------------------------------------


def _settings(folder: Path) -> dict:
    """study.json, with its fields as `Fields`."""
    if not (folder / "study.json").is_file():
        raise UserError(f"{folder} is no study; study.json is expected, as `gcl demo` and `gcl compare` write it")
    said = json.loads((folder / "study.json").read_text())
    if GCL not in said["methods"]:
        raise UserError(f"{folder} has no {GCL} to compare with; it has {', '.join(said['methods'])}")
    return {**said, "left": Fields(**said["left"]), "right": Fields(**said["right"])}


def _first_stages(runs: Path, seed: int, said: dict, data: RankedData, split: str) -> dict[str, _First]:
    """By name, over the corpus of `data`; a DataError when GCL has not the values there that it had in the study."""
    firsts: dict[str, _First] = {}
    for name in FIRST_STAGES:
        if name == "bm25" and name in said["methods"]:
            firsts[name] = _Words(data, said["left"], said["right"])
        elif name in said["methods"]:
            firsts[name] = _Vectors(data, load_model(runs / name / f"seed_{seed}"))
    study = pd.read_parquet(runs / GCL / f"seed_{seed}" / "per_query.parquet")
    then = study[study["split"] == split].set_index("query_id")[str(METRIC)]
    ranked_QxK = firsts[GCL].top_k(np.arange(data.queries.num_rows), DEPTH)
    now = measure_ranking(ranked_QxK, data, [METRIC])[str(METRIC)]
    if set(now.index) != set(then.index) or (now - then).abs().mean() > 1e-3:
        raise DataError(
            f"{runs.name}: {GCL} reaches {METRIC} {now.mean():.3f} with {len(now):,} queries of this {split}, but "
            f"{then.mean():.3f} with {len(then):,} in {runs}; give the data that the study was made of"
        )
    return firsts


class _First:
    """Exact search for queries of `data` (by row number) over its corpus, prepared in advance."""

    parameter_bytes = 0
    stored_bytes = 0

    def top_k(self, query_rows: np.ndarray, k: int) -> np.ndarray:
        """Product rows, Q x k, best first."""
        raise NotImplementedError


class _Vectors(_First):
    def __init__(self, data: RankedData, model: GCLModel):
        self.queries, self.model, self.corpus_NxD = data.queries, model, model.embed(data.corpus, "right")
        self.parameter_bytes, self.stored_bytes = _parameter_bytes(model), self.corpus_NxD.nbytes

    def top_k(self, query_rows, k):
        return top_k(self.model.embed(self.queries.take(query_rows), "left"), self.corpus_NxD, k)[1]


class _Words(_First):
    def __init__(self, data: RankedData, left: Fields, right: Fields):
        self.queries, self.left, self.index = data.queries, left, BM25(texts(data.corpus, right))
        self.stored_bytes = self.index.stored_bytes

    def top_k(self, query_rows, k):
        return self.index.top_k(texts(self.queries, self.left, query_rows), k)


# -- measuring ---------------------------------------------------------------------------------------------------------


def _per_query(
    compared: Sequence[System], firsts: Mapping[str, _First], second: Reranker, data: RankedData
) -> pd.DataFrame:
    """One row a system and query: method (the system's name), query_id, division and the metric."""
    everyone = np.arange(data.queries.num_rows)
    ranked_QxK = {name: first.top_k(everyone, DEPTH) for name, first in firsts.items()}
    seconds = {"re-ranker": second, "oracle": OracleReranker()}
    tables = []
    for system in compared:
        rows_QxK = ranked_QxK[system.first]
        if system.second:
            rows_QxK = rerank(rows_QxK, system.depth, seconds[system.second], data)
        table = measure_ranking(rows_QxK, data, [METRIC]).reset_index()
        tables.append(table.assign(method=str(system), division=data.queries["division"].to_pylist()))
    return pd.concat(tables, ignore_index=True)


def _costs(
    compared: Sequence[System], firsts: Mapping[str, _First], second: Reranker, data: RankedData, config: StagesConfig
) -> dict[str, dict[str, float]]:
    """System -> p50_ms, p99_ms, parameters_mb, stored_mb; nothing for the oracle."""
    real = [system for system in compared if system.second != "oracle"]
    rows = np.flatnonzero(np.isin(data.query_ids, data.only(config.division).query_ids))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    second.network.to("cpu")
    try:
        milliseconds = _milliseconds(real, firsts, second, data, rows, config.timed)
    finally:
        torch.set_num_threads(threads)
    costs = {}
    for system in real:
        p50, p99 = np.percentile(milliseconds[system], [50, 99])
        parameters, stored = firsts[system.first].parameter_bytes, firsts[system.first].stored_bytes
        if system.second:
            parameters += _parameter_bytes(second.network)
            stored += second.stored_bytes(data.corpus)
        sizes = {"parameters_mb": parameters / 1e6, "stored_mb": stored / 1e6}
        costs[str(system)] = {"p50_ms": float(p50), "p99_ms": float(p99), **sizes}
    return costs


def _milliseconds(
    compared: Sequence[System],
    firsts: Mapping[str, _First],
    second: Reranker,
    data: RankedData,
    rows: np.ndarray,
    timed: int,
    warm_up: int = 3,
) -> dict[System, list[float]]:
    """The systems take turns query by query, so that a busy moment of the machine falls on all of them."""
    milliseconds: dict[System, list[float]] = {system: [] for system in compared}
    for turn in range(-warm_up, timed):
        row = rows[turn % len(rows), None]
        for system in compared:
            started = time.process_time()
            products_1xK = firsts[system.first].top_k(row, system.depth)
            if system.second:
                rerank(products_1xK, system.depth, second, data, row)
            if turn >= 0:
                milliseconds[system].append(1000 * (time.process_time() - started))
    return milliseconds


# -- the result --------------------------------------------------------------------------------------------------------


def _rows(
    compared: Sequence[System], table: pd.DataFrame, costs: Mapping[str, Mapping], config: StagesConfig
) -> list[dict]:
    means = averages(table, METRIC, division=config.division)[config.split]
    rows = []
    for system in compared:
        name = str(system)
        row = {"system": name, **asdict(system), **means[name]._asdict(), **costs.get(name, {})}
        told = gain(table, name, GCL, split=config.split, metric=METRIC, division=config.division)
        difference = {"mean": told.difference, "low": told.low, "high": told.high, "p_value": told.p_value}
        rows.append({**row, "queries": told.queries, "difference": difference})
    return rows


def _best_of_other_queries(table: pd.DataFrame, config: StagesConfig) -> dict[str, str]:
    """The systems with the re-ranker that are told of: over other first stages ("rival") and over GCL ("own"), each
    the best by the other division's queries."""
    others = {"test": "dev", "dev": "test"}.get(config.division)
    told = table if others is None else table[table["division"] == others]
    means = told[told["method"].str.contains(" + re-ranker @ ", regex=False)].groupby("method")[str(METRIC)].mean()
    own = means.index.str.startswith(f"{GCL} + ")
    return {kind: part.idxmax() for kind, part in (("rival", means[~own]), ("own", means[own])) if len(part)}


def _parameter_bytes(network: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in network.parameters())


def _interval(row: Mapping[str, float], sign: str = "") -> str:
    return f"{row['mean']:{sign}.3f} [{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]"


def _verdict(difference: Mapping[str, float]) -> str:
    if difference["low"] > 0:
        return "better"
    return "worse" if difference["high"] < 0 else "a difference that these queries can't tell from none"
