"""One stage or two: the default method alone against first stages with a re-ranker, by quality, latency and memory.

Latency is that of one query at a time in one CPU thread, after a warm-up: read the query, search the corpus exactly,
re-rank the first k. It is CPU time, which equals wall time on an idle machine. What depends on a product alone is
computed in advance for every system: embeddings, the BM25 index, the re-ranker's product side.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.errors import DataError, UserError, unknown
from gcl_toolkit.files import write_json
from gcl_toolkit.measure.baselines import BM25, texts
from gcl_toolkit.measure.evaluate import DEPTH, measure_ranking
from gcl_toolkit.measure.metrics import NDCG
from gcl_toolkit.measure.search import top_k
from gcl_toolkit.measure.statistics import Difference
from gcl_toolkit.methods import DEFAULT
from gcl_toolkit.studies.rerank import OracleReranker, Reranker, make_reranker, rerank
from gcl_toolkit.studies.study import Study, open_study
from gcl_toolkit.studies.summary import averages, gain
from gcl_toolkit.studies.worlds import World
from gcl_toolkit.training.runs import load_model

FIRST_STAGES = ("bm25", "clip", "clip-top", DEFAULT)
METRIC = NDCG @ 10
WARM_UP = 3
"""Queries before the timed ones."""


@dataclass(frozen=True)
class StagesConfig:
    """What to compare, and how to train the re-ranker."""

    split: str = "zero_shot"
    """The split with the queries and the corpus."""
    division: str = "test"
    """dev, test or all queries; the systems named in the finding are chosen on the other ones."""
    depths: tuple[int, ...] = (10, 20, 50, 100, 500)
    """Numbers of products that the second stage re-orders."""
    reranker: str = "small"
    """small (from scratch, pictures and texts), or a CrossEncoder's name or folder (texts only)."""
    steps: int | None = None
    """Training steps of the re-ranker; None: those of the study's methods."""
    timed: int = 200
    """Timed queries for each system; with fewer queries they are repeated."""

    def __post_init__(self):
        if self.timed < 1 or not self.depths or min(self.depths) < 1:
            raise UserError(f"timed is {self.timed}, depths are {list(self.depths)}; they must be integers >= 1")


@dataclass(frozen=True)
class System:
    """A first stage, alone or with a second stage that re-orders its first `depth`."""

    first: str
    second: str = ""
    depth: int = 10

    def __str__(self) -> str:
        return f"{self.first} + {self.second} @ {self.depth}" if self.second else self.first


@dataclass(frozen=True, kw_only=True)
class Measured(System):
    """A system with the mean and interval of the metric, and its costs (None for an oracle)."""

    system: str
    mean: float
    low: float
    high: float
    difference: Difference
    """From the default method alone."""
    p50_ms: float | None = None
    p99_ms: float | None = None
    parameters_mb: float | None = None
    stored_mb: float | None = None


@dataclass(frozen=True)
class Stages:
    """The result, with one entry a system."""

    config: StagesConfig
    systems: list[Measured]
    chosen: dict[str, str]
    """The best systems with the re-ranker on the other division's queries: "rival" over another first stage, "own" over
    the default method."""
    metric: str = str(METRIC)
    command: str = ""
    date: str = ""
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def finding(self) -> str:
        """The result in two sentences."""
        by_name = {str(system): system for system in self.systems}
        alone, (division, split) = by_name[DEFAULT], (self.config.division, self.config.split)
        parts = [
            f"On {alone.difference.queries:,} {division} queries of {split}, {DEFAULT} alone reaches {self.metric} "
            f"{_interval(alone)} in {alone.p50_ms:.2f} ms (median)"
        ]
        for kind, words in (("rival", "the best re-ranking of another first stage"), ("own", f"that of {DEFAULT}")):
            if kind in self.chosen:
                row, change = by_name[self.chosen[kind]], by_name[self.chosen[kind]].difference
                verdict = "better" if change.low > 0 else "worse" if change.high < 0 else "not significantly different"
                gained = f"{change.difference:+.3f} [{change.low:+.3f}, {change.high:+.3f}], {verdict}"
                parts.append(f"{words}, {row}, reaches {_interval(row)} in {row.p50_ms:.2f} ms: {gained}")
        better = [row for row in self.systems if not row.second and row.mean > alone.mean]
        parts += [f"{row} alone reaches {_interval(row)}, more than {DEFAULT} alone" for row in better]
        return f"{'; '.join(parts)}. The systems named here were chosen on {_OTHER.get(division, 'the same')} queries."

    def write(self, path: Path) -> None:
        write_json(path, {"finding": self.finding, **asdict(self)})


_OTHER = {"test": "dev", "dev": "test"}
"""Division -> the one on which systems are chosen."""


def read_stages(path: str | Path) -> Stages:
    """A stages.json; a UserError where it is missing or not one."""
    try:
        written = json.loads(Path(path).read_text())
        written["config"]["depths"] = tuple(written["config"]["depths"])
        rows = [{**row, "difference": Difference(**row["difference"])} for row in written["systems"]]
        read = {"config": StagesConfig(**written["config"]), "systems": [Measured(**row) for row in rows]}
        return Stages(**{**{f.name: written[f.name] for f in fields(Stages)}, **read})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} can't be read as a stages.json ({error}); gcl stages writes one") from None


def systems(firsts: Sequence[str], depths: Sequence[int]) -> list[System]:
    """Every first stage: alone, with the re-ranker and with the oracle at each depth."""
    seconds = [("", 10), *((second, depth) for second in ("re-ranker", "oracle") for depth in depths)]
    return [System(first, second, depth) for first in firsts for second, depth in seconds]


def stages(
    folder: str | Path,
    worlds: Sequence[World],
    config: StagesConfig | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Stages:
    """Train a re-ranker for each world and seed of a study folder, and compare.

    `worlds` must hold the data of the study, which is checked. Quality is over all worlds and seeds; latency and memory
    are of the first. progress(what, done, total) is called while a re-ranker is trained.
    """
    study, config = open_study(folder), config or StagesConfig()
    if DEFAULT not in study.config.methods:
        raise UserError(f"{folder} has no {DEFAULT} to compare with; it has {', '.join(study.config.methods)}")
    steps = config.steps or study.config.train.steps
    first_stages = [name for name in FIRST_STAGES if name in study.config.methods]
    compared, tables = systems(first_stages, config.depths), []
    costs: dict[System, dict[str, Any]] = {}
    for world in worlds:
        if config.split not in world.evaluated():
            raise unknown("split", config.split, world.evaluated())
        data = world.evaluated()[config.split]
        for seed in range(study.config.seeds):
            firsts = {name: _first_stage(name, study, world.name, seed, data) for name in first_stages}
            _check_data(firsts[DEFAULT], study.run_folder(world.name, DEFAULT, seed), data, config.split)
            second = make_reranker(config.reranker, study.config.left, study.config.right, seed=seed)
            for record in second.train(world.splits["in_domain"], steps=steps, seed=seed):
                if progress:
                    progress(f"{world.name} seed {seed}", record["step"], steps)
            table = _per_query(compared, firsts, second, data)
            tables.append(table.assign(world=world.name, data_set=world.data_set, seed=seed, split=config.split))
            costs = costs or _costs(compared, firsts, second, data, config)
    table = pd.concat(tables, ignore_index=True)
    measured = _measured(compared, table, costs, config)
    return Stages(replace(config, steps=steps), measured, _best_of_other_queries(table, config.division))


def _measured(
    compared: Sequence[System], table: pd.DataFrame, costs: Mapping[System, dict[str, Any]], config: StagesConfig
) -> list[Measured]:
    means = averages(table, METRIC, division=config.division)[config.split]
    where: dict[str, Any] = {"split": config.split, "metric": METRIC, "division": config.division}
    return [
        Measured(
            **asdict(system),
            system=str(system),
            **means[str(system)]._asdict(),
            difference=gain(table, str(system), DEFAULT, **where),
            **costs[system],
        )
        for system in compared
    ]


class _First(NamedTuple):
    """Exact search over a corpus, prepared in advance: (query rows, k) -> product rows, Q x k, best first."""

    top_k: Callable[[np.ndarray, int], np.ndarray]
    stored_bytes: int
    parameter_bytes: int = 0


def _first_stage(name: str, study: Study, world: str, seed: int, data: RankedData) -> _First:
    if name == "bm25":
        index = BM25(texts(data.corpus, study.config.right))
        return _First(lambda rows, k: index.top_k(texts(data.queries, study.config.left, rows), k), index.stored_bytes)
    model = load_model(study.run_folder(world, name, seed))
    corpus_NxD = model.embed(data.corpus, "right")

    def search(rows: np.ndarray, k: int) -> np.ndarray:
        return top_k(model.embed(data.queries.take(rows), "left"), corpus_NxD, k)[1]

    return _First(search, corpus_NxD.nbytes, _parameter_bytes(model))


def _check_data(first: _First, run: Path, data: RankedData, split: str) -> None:
    """Raise a DataError if the model has other values on `data` than in the study."""
    per_query = pd.read_parquet(run / "per_query.parquet")
    then = per_query[per_query["split"] == split].set_index("query_id")[str(METRIC)]
    now = measure_ranking(first.top_k(np.arange(data.queries.num_rows), DEPTH), data, [METRIC])[str(METRIC)]
    if set(now.index) != set(then.index) or (now - then).abs().mean() > 1e-3:
        raise DataError(
            f"{DEFAULT} reaches {METRIC} {now.mean():.3f} on {len(now):,} queries of this {split}, but "
            f"{then.mean():.3f} on {len(then):,} in {run}; give the data that the study was made of"
        )


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
) -> dict[System, dict[str, Any]]:
    """p50_ms, p99_ms, parameters_mb and stored_mb of each system; nothing for the oracle."""
    rows = np.flatnonzero(np.isin(data.query_ids, data.only(config.division).query_ids))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    second.network.to("cpu")
    milliseconds: dict[System, list[float]] = {system: [] for system in compared if system.second != "oracle"}
    try:
        for turn in range(-WARM_UP, config.timed):
            row = rows[turn % len(rows), None]
            for system in milliseconds:  # in turns, so that a busy moment of the machine affects all systems
                started = time.process_time()
                products_1xK = firsts[system.first].top_k(row, system.depth)
                if system.second:
                    rerank(products_1xK, system.depth, second, data, row)
                milliseconds[system].append(1000 * (time.process_time() - started))
    finally:
        torch.set_num_threads(threads)
    costs: dict[System, dict[str, Any]] = {system: {} for system in compared}
    for system, times in milliseconds.items():
        p50, p99 = np.percentile(times[WARM_UP:], [50, 99]).tolist()
        first = firsts[system.first]
        parameters = first.parameter_bytes + (_parameter_bytes(second.network) if system.second else 0)
        stored = first.stored_bytes + (second.stored_bytes(data.corpus) if system.second else 0)
        costs[system] = {"p50_ms": p50, "p99_ms": p99, "parameters_mb": parameters / 1e6, "stored_mb": stored / 1e6}
    return costs


def _best_of_other_queries(table: pd.DataFrame, division: str) -> dict[str, str]:
    rows = table[table["division"] == _OTHER[division]] if division in _OTHER else table
    means = rows[rows["method"].str.contains(" + re-ranker @ ", regex=False)].groupby("method")[str(METRIC)].mean()
    own = means.index.str.startswith(f"{DEFAULT} + ")
    return {kind: part.idxmax() for kind, part in (("rival", means[~own]), ("own", means[own])) if len(part)}


def _parameter_bytes(network: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in network.parameters())


def _interval(row: Measured) -> str:
    return f"{row.mean:.3f} [{row.low:.3f}, {row.high:.3f}]"
