"""A study: several methods, seeds and worlds (data sets) under one budget -> one per-query table, and its summary.

A study folder holds runs/<world>/<method>/seed_<n>/ (one run each, with its per-query table), per_query.parquet (all of
them) and results.json (the summary). Runs that are whole are not done again, so a stopped study goes on.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import multiprocessing
import os
import pickle
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from gcl_toolkit.baselines import BM25, oracle_top_k, random_top_k, texts
from gcl_toolkit.errors import UserError, unknown
from gcl_toolkit.evaluate import DEPTH, METRICS, Watch, measure_ranking, rankings
from gcl_toolkit.fields import Fields
from gcl_toolkit.model import GCLModel
from gcl_toolkit.ranked_data import RankedData
from gcl_toolkit.runs import Run, writable_folder, write_json
from gcl_toolkit.train import TrainConfig, train

TRAINED: dict[str, dict[str, Any]] = {
    "clip": {"loss": "gcl", "weighting": "constant", "mask": False},
    "clip-masked": {"loss": "gcl", "weighting": "constant"},
    "clip-top": {"loss": "gcl", "weighting": "constant", "top_only": True},
    "gcl-linear": {"loss": "gcl", "weighting": "linear", "mask": False},
    "gcl-reciprocal": {"loss": "gcl", "weighting": "reciprocal", "mask": False},
    "binary-matrix": {"loss": "matrix", "weighting": "constant"},
    "masked-matrix": {"weighting": "constant"},
    "top-matrix": {"loss": "matrix", "weighting": "constant", "top_only": True},
    "gcl-matrix": {},
    "gcl-soft": {"loss": "matrix", "weighting": "sharp"},
    "siglip": {"loss": "siglip", "weighting": "constant"},
    "bixse": {"loss": "bixse", "weighting": "relative"},
    "rankclip": {"loss": "rankclip", "weighting": "relative"},
    "kl": {"loss": "kl", "weighting": "relative"},
    "cosent": {"loss": "cosent", "weighting": "relative"},
}
"""Method -> how its TrainConfig differs from the study's. "gcl-linear" and "gcl-reciprocal" are GCL as published."""
BASELINES = ("random", "bm25", "oracle", "untrained")
"""Without training; "untrained" is a pretrained encoder as it came."""
CONTROLS = ("clip", "clip-masked", "clip-top", "binary-matrix", "masked-matrix", "top-matrix")
"""What a gain is measured against; `clip` alone flatters, since it takes known positives for negatives."""
RIVALS = ("siglip", "bixse", "rankclip", "kl", "cosent")
"""Losses of others, on the batches of the score matrix."""
METHODS = ("random", "bm25", *CONTROLS, "gcl-linear", "gcl-reciprocal", "gcl-matrix", "oracle")
"""A study's by default."""
LABORATORY = ("bm25", *CONTROLS, "gcl-linear", "gcl-reciprocal", *RIVALS, "gcl-soft", "gcl-matrix")
"""Every loss under one budget: those of `gcl lab`."""
KEYS = ["world", "method", "seed", "split", "division", "query_id"]


@dataclass(frozen=True)
class World:
    """A data set in a study: the four splits to train and evaluate on; `judged` replaces their qrels in evaluation
    where the listed pairs are incomplete."""

    name: str
    splits: Mapping[str, RankedData]
    judged: Mapping[str, RankedData] = field(default_factory=dict)

    def evaluated(self) -> Mapping[str, RankedData]:
        return self.judged or self.splits


FOLD = "-fold"


def data_set(world: str) -> str:
    """The name without that of a fold: worlds of one data set share queries."""
    return world.rpartition(FOLD)[0] or world


@dataclass(frozen=True)
class StudyConfig:
    """What a study runs; every trained method gets the same steps, batch and encoder."""

    methods: Sequence[str] = METHODS
    seeds: int = 1
    train: TrainConfig = field(default_factory=TrainConfig)
    encoder: str = "small"
    pretrained: str | None = None
    left: Fields = field(default_factory=lambda: Fields(query=1.0))
    right: Fields = field(default_factory=lambda: Fields(image=0.5, title=0.5))
    evaluate_every: int = 0
    """Measure the dev queries of every split so often in training, in steps, and at the last; 0: never."""

    def __post_init__(self):
        for method in self.methods:
            if method not in (*TRAINED, *BASELINES):
                raise unknown("method", method, (*TRAINED, *BASELINES))
        if "untrained" in self.methods and self.encoder == "small":
            raise UserError("method 'untrained' needs a pretrained encoder; name one with --encoder")
        if self.seeds < 1:
            raise UserError(f"seeds is {self.seeds}; at least 1 is expected")


@dataclass(frozen=True)
class Progress:
    """Where a study stands: `done` of `total` steps of a run; `whole` once it is evaluated and saved."""

    world: str
    method: str
    seed: int
    done: int
    total: int
    whole: bool = False


def study(worlds: Sequence[World], config: StudyConfig, folder: str | Path, *, jobs: int = 1) -> Iterator[Progress]:
    """Train and evaluate every method on every world with every seed; read the result with `read_study`.

    `jobs` runs go side by side, a process with one thread each: on a CPU this beats many threads a run. 0: as many as
    there are cores, or 1 with a GPU; 1: all in this process, with its threads.
    """
    jobs = jobs or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    folder = writable_folder(folder)
    write_json(folder / "study.json", {**asdict(config), "left": dict(config.left), "right": dict(config.right)})
    tasks = [
        (world, method, seed, config, run_folder(folder, world.name, method, seed))
        for world in worlds
        for seed in range(config.seeds)
        for method in config.methods
        if method in TRAINED or seed == 0
    ]
    if jobs == 1:
        for task in tasks:
            yield from _run(*task)
    else:
        yield from _side_by_side(tasks, jobs)
    tables = [pd.read_parquet(task[-1] / "per_query.parquet") for task in tasks]
    pd.concat(tables, ignore_index=True).to_parquet(folder / "per_query.parquet")


def run_folder(study: Path, world: str, method: str, seed: int) -> Path:
    """Where a study keeps one of its runs."""
    return study / "runs" / world / method / f"seed_{seed}"


def _release_memory() -> None:
    """Give freed memory back to the system, where the C library can (glibc)."""
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)


def _side_by_side(tasks: list[tuple], jobs: int) -> Iterator[Progress]:
    fork_server = "forkserver" in multiprocessing.get_all_start_methods()  # its workers share torch's memory
    context: Any = multiprocessing.get_context("forkserver" if fork_server else "spawn")
    if fork_server:
        context.set_forkserver_preload([__name__, "torch._dynamo"])  # which the first optimizer imports
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")  # for the workers; more arenas only hold freed memory
    news = context.Queue()
    workers = ProcessPoolExecutor(jobs, context, initializer=_start_worker, initargs=(news,))
    with TemporaryDirectory(prefix="gcl-worlds-") as place, workers as pool:
        files = _written({world.name: world for world, *_ in tasks}, Path(place))
        _release_memory()
        waiting = {pool.submit(_run_and_tell, files[world.name], *task) for world, *task in tasks}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.2)
                while not news.empty():
                    yield news.get()
                for future in done:
                    yield future.result()
        finally:
            for future in waiting:
                future.cancel()


def _written(worlds: Mapping[str, World], folder: Path) -> dict[str, Path]:
    """World -> its file, from which each worker reads it once."""
    files = {name: folder / f"{number}.pickle" for number, name in enumerate(worlds)}
    try:
        for name, file in files.items():
            with file.open("wb") as opened:
                pickle.dump(worlds[name], opened)
    except OSError as error:
        raise UserError(f"{folder}: the data finds no room ({error.strerror}); set TMPDIR to a larger disk") from None
    return files


@lru_cache(maxsize=1)
def _read(file: Path) -> World:
    with file.open("rb") as opened:
        return pickle.load(opened)


_news: Any = None


def _start_worker(news) -> None:
    global _news
    _news = news
    gc.freeze()  # collections leave alone what is the server's, so that it stays shared
    torch.set_num_threads(1)


def _run_and_tell(file: Path, *task) -> Progress:
    """Runs a task on the world in a file, sends its progress, and returns the last: that the run is whole."""
    for progress in _run(_read(file), *task):
        if not progress.whole:
            _news.put(progress)
    _release_memory()
    return progress


def read_study(folder: str | Path) -> pd.DataFrame:
    """The per-query table of a study: world, method, seed, split, division, query_id and one column a metric."""
    path = Path(folder) / "per_query.parquet"
    if not path.is_file():
        raise UserError(f"{folder} holds no finished study; {path.name} is expected")
    return pd.read_parquet(path)


def _run(world: World, method: str, seed: int, config: StudyConfig, folder: Path) -> Iterator[Progress]:
    settings = replace(config.train, seed=seed, **TRAINED.get(method, {}))
    model = None
    if method in TRAINED or method == "untrained":
        model = GCLModel(config.encoder, left=config.left, right=config.right, seed=seed, pretrained=config.pretrained)
    fingerprint = _fingerprint(world, method, seed, config, settings, model)
    done = folder / "done.json"
    if done.is_file() and json.loads(done.read_text())["fingerprint"] == fingerprint:
        yield Progress(world.name, method, seed, settings.steps, settings.steps, whole=True)
        return
    run, started, cpu = Run(folder), time.perf_counter(), time.process_time()
    if model and method in TRAINED:
        watch = Watch(world.evaluated(), config.evaluate_every) if config.evaluate_every else None
        for record in train(model, world.splits["in_domain"], settings, run=run, watch=watch):
            yield Progress(world.name, method, seed, record["step"], settings.steps)
    training = {"train_seconds": time.perf_counter() - started, "train_cpu_seconds": time.process_time() - cpu}
    splits, tables = world.evaluated(), []
    baseline = ((split, data, _baseline_ranking(method, data, config, seed)) for split, data in splits.items())
    for split, data, rows in rankings(model, splits) if model else baseline:
        table = measure_ranking(rows, data, METRICS)
        table.insert(0, "division", data.queries["division"].to_pylist())
        table.insert(0, "split", split)
        tables.append(table.assign(top=[data.product_ids[row[row >= 0]].tolist() for row in rows[:, :10]]))
    table = pd.concat(tables).reset_index()
    table = table.assign(world=world.name, method=method, seed=seed)
    table[[*KEYS, *map(str, METRICS), "top"]].to_parquet(folder / "per_query.parquet")
    write_json(done, {"fingerprint": fingerprint, **training, "total_seconds": time.perf_counter() - started})
    yield Progress(world.name, method, seed, settings.steps, settings.steps, whole=True)


def _baseline_ranking(method: str, data: RankedData, config: StudyConfig, seed: int) -> np.ndarray:
    if method == "random":
        return random_top_k(data.queries.num_rows, data.corpus.num_rows, DEPTH, seed)
    if method == "oracle":
        return oracle_top_k(data, DEPTH)
    return BM25(texts(data.corpus, config.right)).top_k(texts(data.queries, config.left), DEPTH)


def _fingerprint(
    world: World, method: str, seed: int, config: StudyConfig, settings: TrainConfig, model: GCLModel | None
) -> str:
    """Changes with what a run's table depends on: the settings, the encoder, every row of the data."""
    encoder = [config.pretrained, model.encoder.spec] if model else []
    said = [method, seed, *encoder, repr(config.left), repr(config.right), config.evaluate_every, asdict(settings)]
    digest = hashlib.blake2b(json.dumps(said, default=str).encode(), digest_size=16)
    for split, data in (*world.splits.items(), *world.judged.items()):
        digest.update(f"{split} {data.digest}".encode())
    return digest.hexdigest()
