"""A study: several methods, seeds and worlds (data sets) under one budget -> one per-query table.

A study folder holds study.json, runs/<world>/<method>/seed_<n>/ (a run each, with its per-query table),
per_query.parquet (all of them) and results.json (the summary); with candidates also candidates.json and
candidates/<n>/runs/ (what each method chose its settings from). Finished runs are not repeated, so a stopped study
continues.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from gcl_toolkit.data.fields import Fields
from gcl_toolkit.data.ranked_data import RankedData
from gcl_toolkit.errors import UserError, unknown
from gcl_toolkit.files import writable_folder, write_json
from gcl_toolkit.measure.baselines import BM25, oracle_top_k, random_top_k, texts
from gcl_toolkit.measure.evaluate import DEPTH, METRICS, MeasureDev, measure_ranking, rankings
from gcl_toolkit.methods import CONTROLS, METHODS, PAPER, Method, as_method
from gcl_toolkit.models.adapter import VectorEncoder
from gcl_toolkit.models.model import GCLModel
from gcl_toolkit.options import split_options
from gcl_toolkit.studies.candidates import best, dev_means, read_choices, with_candidate
from gcl_toolkit.studies.workers import side_by_side
from gcl_toolkit.studies.worlds import World, WorldSpec
from gcl_toolkit.training.config import MachineConfig, TrainConfig, Tuning
from gcl_toolkit.training.runs import Run
from gcl_toolkit.training.train import learn_vocabulary, train
from gcl_toolkit.training.version1 import METHODS as RENAMED

BASELINES = ("random", "bm25", "oracle", "untrained")
"""Without training; "untrained" is a pretrained encoder that is not fine-tuned."""
STUDIED = ("random", "bm25", *CONTROLS, *PAPER, "graded", "oracle")
"""The methods of a study by default."""
KEYS = ["world", "data_set", "method", "seed", "split", "division", "query_id"]


def laboratory() -> tuple[str, ...]:
    """The methods of `gcl lab`: all that are registered."""
    return ("bm25", *METHODS)


@dataclass(frozen=True)
class StudyConfig:
    """What a study runs; every trained method gets the same steps, batch and encoder."""

    methods: Sequence[str] = STUDIED
    """Names of baselines and methods, the latter with settings after a colon: graded:weighting=log."""
    seeds: int = 1
    train: TrainConfig = field(default_factory=TrainConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    encoder: str = "small"
    pretrained: str | None = None
    left: Fields = field(default_factory=lambda: Fields(query=1.0))
    right: Fields = field(default_factory=lambda: Fields(image=0.5, title=0.5))
    evaluate_every: int = 0
    """Measure the dev queries of every split every N steps and after the last; 0: never."""
    candidates: Sequence[str] = ()
    """Other settings of training and encoder, such as weight_decay=5,dropout=0.6. Each method is trained once with its
    own and once with each of these, and takes those that are best on the dev queries."""

    def __post_init__(self):
        for method in self.methods:
            if method not in BASELINES and split_options(method)[0] not in METHODS:
                raise unknown("method", method, (*METHODS, *BASELINES))
            if method not in BASELINES:
                as_method(method)
        if "untrained" in self.methods and self.encoder == "small":
            raise UserError("method 'untrained' needs a pretrained encoder; name one with --encoder")
        if self.seeds < 1:
            raise UserError(f"seeds is {self.seeds}; it must be an integer >= 1")
        for candidate in self.candidates:
            with_candidate(self, candidate)


@dataclass(frozen=True)
class Study:
    """What a study folder holds, from its study.json."""

    folder: Path
    config: StudyConfig
    worlds: tuple[WorldSpec, ...]
    """Where the data comes from; empty for a study of worlds that were made in Python."""

    def run_folder(self, world: str, method: str, seed: int) -> Path:
        return run_folder(self.folder, world, method, seed)


@dataclass(frozen=True)
class Progress:
    """Where a study stands: `done` of `total` steps of a run; `whole` once it is evaluated and saved."""

    world: str
    method: str
    seed: int
    done: int
    total: int
    whole: bool = False
    candidate: str | None = None
    """What is tried before the choice of settings; None afterwards."""

    @property
    def training(self) -> tuple:
        """Which training this is of those of a study."""
        return self.world, self.method, self.seed, self.candidate


@dataclass(frozen=True)
class Task:
    """One run of a study."""

    world: str
    name: str
    method: Method | None
    """None for a baseline."""
    seed: int
    config: StudyConfig
    folder: Path
    candidate: str | None = None

    def run(self, world: World) -> Iterator[Progress]:
        """Train, evaluate and save; only the last progress of a run that is finished already."""
        settings, model = replace(self.config.train, seed=self.seed), self._model()
        fingerprint, done = self._fingerprint(world, model), self.folder / "done.json"
        state = Progress(self.world, self.name, self.seed, settings.steps, settings.steps, True, self.candidate)
        if done.is_file() and json.loads(done.read_text())["fingerprint"] == fingerprint:
            yield state
            return
        run, started, cpu = Run(self.folder), time.perf_counter(), time.process_time()
        if model and self.method:
            every = self.config.evaluate_every
            watch = MeasureDev(world.evaluated(), every) if every else None
            machine, data = self.config.machine, world.splits["in_domain"]
            for record in train(model, data, self.method, settings, machine=machine, run=run, watch=watch):
                yield replace(state, done=record["step"], whole=False)
        elif model:
            _as_pretrained(model, world.splits["in_domain"])
        training = {"train_seconds": time.perf_counter() - started, "train_cpu_seconds": time.process_time() - cpu}
        self._measured(world, model).to_parquet(self.folder / "per_query.parquet")
        write_json(done, {"fingerprint": fingerprint, **training, "total_seconds": time.perf_counter() - started})
        yield state

    def _model(self) -> GCLModel | None:
        config = self.config
        if self.method is None and self.name != "untrained":
            return None
        pretrained = config.pretrained
        return GCLModel(config.encoder, left=config.left, right=config.right, seed=self.seed, pretrained=pretrained)

    def _measured(self, world: World, model: GCLModel | None) -> pd.DataFrame:
        splits, tables = world.evaluated(), []
        baseline = ((split, data, self._baseline_ranking(data)) for split, data in splits.items())
        for split, data, rows in rankings(model, splits) if model else baseline:
            table = measure_ranking(rows, data, METRICS)
            table.insert(0, "division", data.queries["division"].to_pylist())
            table.insert(0, "split", split)
            tables.append(table.assign(top=[data.product_ids[row[row >= 0]].tolist() for row in rows[:, :10]]))
        table = pd.concat(tables).reset_index()
        table = table.assign(world=world.name, data_set=world.data_set, method=self.name, seed=self.seed)
        return table[[*KEYS, *map(str, METRICS), "top"]]

    def _baseline_ranking(self, data: RankedData) -> np.ndarray:
        if self.name == "random":
            return random_top_k(data.queries.num_rows, data.corpus.num_rows, DEPTH, self.seed)
        if self.name == "oracle":
            return oracle_top_k(data, DEPTH)
        return BM25(texts(data.corpus, self.config.right)).top_k(texts(data.queries, self.config.left), DEPTH)

    def _fingerprint(self, world: World, model: GCLModel | None) -> str:
        """Changes with what a run's table depends on: the settings, the encoder, every row of the data."""
        config = self.config
        encoder = [config.pretrained, model.encoder.spec] if model else []
        settings = [asdict(config.train), config.machine.precision, config.evaluate_every] if self.method else []
        facts = [self.name, repr(self.method), self.seed, *encoder, repr(config.left), repr(config.right), *settings]
        digest = hashlib.blake2b(json.dumps(facts, default=str).encode(), digest_size=16)
        for split, data in (*world.splits.items(), *world.judged.items()):
            digest.update(f"{split} {data.digest}".encode())
        return digest.hexdigest()


def study(worlds: Sequence[World], config: StudyConfig, folder: str | Path, *, jobs: int = 1) -> Iterator[Progress]:
    """Train and evaluate every method on every world with every seed; read the result with `read_study`.

    jobs: runs side by side, a process with one thread each, which on a CPU beats many threads a run. 0: one a core, or
    1 with a GPU; 1: all in this process, with its threads.
    """
    if jobs < 0:
        raise UserError(f"jobs is {jobs}; it must be an integer >= 0")
    folder = writable_folder(folder)
    specs = [asdict(world.spec) for world in worlds if world.spec]
    about = {**asdict(config), "left": dict(config.left), "right": dict(config.right), "worlds": specs}
    write_json(folder / "study.json", about)
    methods = {name: None if name in BASELINES else as_method(name) for name in config.methods}
    chosen, by_name = dict.fromkeys(methods, with_candidate(config, "")), {world.name: world for world in worlds}
    if config.candidates:
        trained = {name: method for name, method in methods.items() if method}
        trials = list(_trials(worlds, trained, config, folder))
        yield from side_by_side(trials, by_name, jobs)
        chosen |= _choice(trials, folder)
    tasks = [
        Task(world.name, name, method, seed, chosen[name], run_folder(folder, world.name, name, seed))
        for world in worlds
        for seed in range(config.seeds)
        for name, method in methods.items()
        if method or seed == 0
    ]
    yield from side_by_side(tasks, by_name, jobs)
    tables = [pd.read_parquet(task.folder / "per_query.parquet") for task in tasks]
    pd.concat(tables, ignore_index=True).to_parquet(folder / "per_query.parquet")


def _trials(
    worlds: Sequence[World], methods: Mapping[str, Method], config: StudyConfig, folder: Path
) -> Iterator[Task]:
    """Every method with its own settings and with every candidate, one seed each."""
    parts = [data for world in worlds for data in world.evaluated().values()]
    if not any("dev" in data.queries["division"].to_pylist() for data in parts):
        raise UserError("there is no dev query to choose settings on; leave --candidates out")
    for number, candidate in enumerate(("", *config.candidates)):
        settings, place = with_candidate(config, candidate), folder / "candidates" / str(number)
        for world in worlds:
            for name, method in methods.items():
                run = run_folder(place, world.name, name, 0)
                yield Task(world.name, name, method, 0, settings, run, candidate)


def _choice(trials: Sequence[Task], folder: Path) -> dict[str, StudyConfig]:
    """Method -> the best settings on dev queries; writes candidates.json. The trials with these become the runs of seed
    0."""
    tables = [pd.read_parquet(trial.folder / "per_query.parquet").assign(candidate=trial.candidate) for trial in trials]
    choices = dev_means(pd.concat(tables))
    write_json(folder / "candidates.json", choices)
    taken = [trial for trial in trials if trial.candidate == best(choices[trial.name])]
    for trial in taken:
        run = run_folder(folder, trial.world, trial.name, 0)
        done, new = run / "done.json", trial.folder / "done.json"
        if not done.is_file() or done.read_text() != new.read_text():
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(trial.folder, run)
    return {trial.name: trial.config for trial in taken}


def _as_pretrained(model: GCLModel, data: RankedData) -> None:
    """Make an adapter the identity, for which all its vectors must be in one space; other encoders stay as they are."""
    learn_vocabulary(model, data)
    if isinstance(model.encoder, VectorEncoder):
        for key, one in model.encoder.maps.items():
            if not one.near:
                size = model.encoder.inputs[key]["dimension"]
                raise UserError(
                    f"method 'untrained' needs vectors of one encoder and dimension on both sides; {key} has {size} "
                    "numbers of another space: leave it out (--right), or the method"
                )


def run_folder(study: Path, world: str, method: str, seed: int) -> Path:
    """Where a study keeps one of its runs."""
    return study / "runs" / world / method.replace(":", "_") / f"seed_{seed}"


def read_study(folder: str | Path) -> pd.DataFrame:
    """The per-query table of a study: world, data_set, method, seed, split, division, query_id, one column a metric."""
    path = Path(folder) / "per_query.parquet"
    if not path.is_file():
        raise UserError(f"{folder} holds no finished study ({path.name} is missing)")
    table = pd.read_parquet(path)
    if "data_set" not in table:  # version 0.1
        table.insert(1, "data_set", table["world"].str.replace(r"-fold\d+$", "", regex=True))
        table["method"] = table["method"].replace(RENAMED)
    return table


def training_seconds(folder: str | Path, table: pd.DataFrame) -> dict[str, list[float]]:
    """Method -> processor seconds of training of each of its runs in the table of a study."""
    seconds: dict[str, list[float]] = {}
    for world, method, seed in table[["world", "method", "seed"]].drop_duplicates().itertuples(index=False):
        done = run_folder(Path(folder), world, method, seed) / "done.json"
        if done.is_file() and method not in BASELINES:
            seconds.setdefault(method, []).append(json.loads(done.read_text())["train_cpu_seconds"])
    return seconds


def rejected_seconds(folder: str | Path, config: StudyConfig) -> float:
    """Processor seconds of the trainings with candidates that were not chosen."""
    folder, seconds = Path(folder), 0.0
    for method, means in read_choices(folder).items() if config.candidates else ():
        for number, candidate in enumerate(means):
            if candidate != best(means):
                trials = run_folder(folder / "candidates" / str(number), "*", method, 0).relative_to(folder)
                files = folder.glob(str(trials / "done.json"))
                seconds += sum(json.loads(done.read_text())["train_cpu_seconds"] for done in files)
    return seconds


def open_study(folder: str | Path) -> Study:
    """The settings and worlds of a study folder."""
    path = Path(folder) / "study.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no study ({path.name} is missing); make one with gcl demo or gcl compare")
    written = json.loads(path.read_text())
    if "worlds" not in written:
        raise UserError(f"{folder} is a study of version 0.1; run it again to continue with it")
    specs = tuple(WorldSpec(**{**spec, "complete": tuple(spec["complete"])}) for spec in written.pop("worlds"))
    train = written["train"]
    tuning = Tuning(**{**train["tuning"], "dimensions": tuple(train["tuning"]["dimensions"])})
    machine = {**written["machine"], "log": tuple(written["machine"]["log"])}
    config = {
        **written,
        "methods": tuple(written["methods"]),
        "train": TrainConfig(**{**train, "tuning": tuning}),
        "machine": MachineConfig(**machine),
        "candidates": tuple(written.get("candidates", ())),
        "left": Fields(**written["left"]),
        "right": Fields(**written["right"]),
    }
    return Study(Path(folder), StudyConfig(**config), specs)
