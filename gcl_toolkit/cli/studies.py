"""Studies: gcl demo, compare, lab, report, slices."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Literal

import pandas as pd
import tyro
from rich.progress import TaskID

from gcl_toolkit import machine
from gcl_toolkit.cli.common import (
    Source,
    app,
    command,
    console,
    print_notes,
    print_table,
    progress,
    reading,
    study_worlds,
    warn_of_few,
)
from gcl_toolkit.data.fields import Fields
from gcl_toolkit.errors import UserError
from gcl_toolkit.files import writable_folder
from gcl_toolkit.measure.statistics import Interval
from gcl_toolkit.methods import DEFAULT
from gcl_toolkit.studies import recipes
from gcl_toolkit.studies.candidates import CHOSEN, choices_table, read_choices
from gcl_toolkit.studies.clock import Clock
from gcl_toolkit.studies.glossary import meaning
from gcl_toolkit.studies.markdown import as_markdown, order_and_recall
from gcl_toolkit.studies.results import Results
from gcl_toolkit.studies.study import (
    BASELINES,
    STUDIED,
    StudyConfig,
    laboratory,
    open_study,
    read_study,
    rejected_seconds,
    run_folder,
    study,
    training_seconds,
)
from gcl_toolkit.studies.summary import check_control, strongest_control, summarise
from gcl_toolkit.studies.worlds import World, WorldSpec, specs_of
from gcl_toolkit.training.config import MachineConfig, TrainConfig


@app.command(name="demo")
def demo(out: Path = Path("runs/demo"), recipe: str = "shop", jobs: int = 0) -> None:
    """Generate the shop, train the main methods, evaluate on four splits, write a report.

    Args:
        out: folder of the study; the same command continues a stopped one.
        recipe: shop (the demo), shop-full (all methods, 3 shops x 3 seeds), shop-sparse.
        jobs: runs side by side, each with one thread; 0: one a core (one with a GPU).
    """
    from gcl_toolkit.views.first_look import first_look

    chosen = recipes.recipe(recipe)
    writable_folder(out)
    console.print(chosen.about)
    worlds = _opened(chosen.worlds)
    for line in first_look(worlds[0].evaluated()["in_domain"], chosen.study, out / "first_look.png"):
        console.print(line)
    _run_study(worlds, chosen.study, out, jobs)
    for line in chosen.missed(read_study(out)):
        console.print(f"not as expected: {line}", style="yellow")
    console.print(f"Next: open {out}/report.html; gcl search {out} 'red striped mug'; gcl compare --help")


@dataclass(frozen=True)
class Comparison(Source):
    """Data, methods and controls. --data may also name a recipe."""

    out: Path = Path("runs/compare")
    """Folder of the study; the same command continues a stopped one."""
    methods: tuple[str, ...] = STUDIED
    """Which methods, with settings after a colon (graded:weighting=log); also "untrained", a pretrained encoder that is
    not fine-tuned."""
    seeds: int = 1
    """Trainings of each method, each with other initial weights and another order."""
    folds: int = 1
    """Repeat with other queries held out; for data with few queries."""
    complete: str | None = None
    """Levels, fine to coarse, such as fine_id,coarse_id,top: evaluate on complete grades, rebuilt from
    queries_meta.parquet and products_meta.parquet, where the listed pairs are only a sample."""
    control: str | None = None
    """The control to report gains over; by default the strongest one on the dev queries."""
    candidates: tuple[str, ...] = ()
    """Other settings of training and encoder, such as weight_decay=5,dropout=0.6 learning_rate=1e-4: each method takes
    those that are best for it on the dev queries, or keeps the study's own."""
    division: Literal["test", "all"] = "test"
    """Report test queries; or all, if nothing was chosen on the dev ones."""
    jobs: int = 0
    """Runs side by side, each with one thread; 0: one a core (one with a GPU)."""
    train: TrainConfig = field(default_factory=TrainConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)

    def specs(self) -> Sequence[WorldSpec]:
        if self.data in recipes.RECIPES and self.data != "shop":  # "shop" is a source, too
            return recipes.RECIPES[self.data].worlds
        return specs_of(self.data, self.folds, self.complete.split(",") if self.complete else ())

    def study(self) -> StudyConfig:
        names = ("methods", "seeds", "train", "machine", "encoder", "pretrained", "evaluate_every", "candidates")
        settings = {name: getattr(self, name) for name in names}
        config = StudyConfig(**settings, left=Fields.parse(self.left))
        return replace(config, right=Fields.parse(self.right)) if self.right else config


@dataclass(frozen=True)
class Laboratory(Comparison):
    """The settings of gcl compare, with every method."""

    out: Path = Path("runs/lab")
    methods: tuple[str, ...] = field(default_factory=laboratory)


@app.command(name="compare")
def compare(settings: tyro.conf.OmitArgPrefixes[Comparison]) -> None:
    """Train and compare methods on your data; every gain names its control."""
    writable_folder(settings.out)
    config, specs = settings.study(), settings.specs()
    _check_folder(settings.out, specs, config, bool(settings.right))
    worlds = _opened(specs)
    config = replace(config, right=settings.right_of(worlds[0].splits["in_domain"]))
    _run_study(worlds, config, settings.out, settings.jobs, settings.control, settings.division)


@app.command(name="lab")
def lab(settings: tyro.conf.OmitArgPrefixes[Laboratory]) -> None:
    """Compare all methods: the controls, the losses of others and ours."""
    compare(settings)


@app.command(name="report")
def report_command(
    folder: tyro.conf.Positional[Path], data: str | None = None, complete: str | None = None, out: Path | None = None
) -> None:
    """Write the report of a study again, or that of one run of gcl train.

    Args:
        folder: a study, or a run.
        data: the data that the study was made of; by default what the study names.
        complete: as in gcl compare.
        out: the HTML file; report.html in the folder by default.
    """
    from gcl_toolkit.views.report import write_report, write_run_report

    if (folder / "study.json").is_file():
        known = data or open_study(folder).worlds
        path = write_report(folder, study_worlds(folder, data, complete)[:1] if known else [], path=out)
        if not known:
            console.print("written without texts and pictures of queries; --data adds them")
    elif data:
        raise UserError(f"{folder} holds no study; --data is for the folder of a study")
    else:
        path = write_run_report(folder, path=out)
    console.print(str(path))


@app.command(name="slices")
def slices_command(
    folder: tyro.conf.Positional[Path],
    data: str | None = None,
    split: str = "zero_shot",
    method: str = DEFAULT,
    control: str | None = None,
    metric: str = "NDCG@10",
    division: str = "test",
    category: str | None = None,
) -> None:
    """Where a method of a study gains over its control: head and tail, categories, query length.

    Also by the number of judged products.

    Args:
        folder: folder of a study; of several worlds, the first is taken.
        data: the data it was run on; by default what the study names.
        split: which split.
        method: which method.
        control: over which control; by default the strongest on the dev queries.
        metric: such as NDCG@10 or AP.
        division: dev, test or all queries.
        category: a column of the products to slice by.
    """
    from gcl_toolkit.measure.slices import by_slice, detectable, per_query, slices

    table = read_study(folder)
    table = table[table["world"] == table["world"].iloc[0]]
    control = control or strongest_control(table, metric)
    part = study_worlds(folder, data, None)[0].evaluated()[split]
    a, b = (per_query(table, name, split, metric, division=division) for name in (method, control))
    rows = []
    for row in by_slice(a, b, slices(part, category), metric).itertuples():
        gap = Interval(row.difference.difference, row.difference.low, row.difference.high)
        p_value = f"{row.difference.p_value:.3f} (uncorrected)" if row.way == "all" else f"{row.p_corrected:.3f}"
        rows.append((row.way, row.slice, row.queries, row.a, row.b, gap, p_value))
    console.print(f"{metric}, {split}, {division} queries, 95% intervals over queries")
    print_table(("by", "slice", "queries", method, control, "difference", "p (Holm)"), rows)
    console.print(detectable(a, b))


def _check_folder(out: Path, specs: Sequence[WorldSpec], config: StudyConfig, named: bool) -> None:
    """A study replaces the results of another in its folder only if it is of the same data. named: whether the user
    named the products' fields."""
    if not (out / "results.json").is_file():
        return
    found = open_study(out)
    if found.worlds != tuple(specs):
        sources = ", ".join(dict.fromkeys(spec.source for spec in found.worlds)) or "other data"
        raise UserError(f"{out} holds a study of {sources}; give another folder with --out")
    if found.config != (config if named else replace(config, right=found.config.right)):
        console.print(f"{out} holds a study with other settings; its results are replaced, runs that fit are kept")


def _opened(specs: Sequence[WorldSpec]) -> list[World]:
    with reading(specs[0].source):
        worlds = [spec.open() for spec in specs]
    for world in worlds:
        print_notes(world.splits["in_domain"])
    return worlds


def _run_study(
    worlds: Sequence[World],
    config: StudyConfig,
    out: Path,
    jobs: int,
    control: str | None = None,
    division: str = "test",
) -> None:
    from gcl_toolkit.views.report import write_report

    check_control(config.methods, [*worlds[0].evaluated().values()], control)
    started = time.perf_counter()
    train_study(worlds, config, out, jobs)
    table = read_study(out)
    results = replace(
        summarise(table, control=control, division=division),
        command=command(),
        date=date.today().isoformat(),
        machine=machine.machine(),
        minutes=round((sum(map(sum, training_seconds(out, table).values())) + rejected_seconds(out, config)) / 60, 1),
        data={world.name: dict(world.splits["in_domain"].card) for world in worlds},
        choices=read_choices(out) if config.candidates else {},
    )
    results.write(out / "results.json")
    (out / "results.md").write_text(as_markdown(results))
    _print_study(results)
    path = write_report(out, worlds)
    minutes = (time.perf_counter() - started) / 60
    console.print(f"{minutes:.1f} minutes; {out / 'results.json'}, {path}")


def train_study(worlds: Sequence[World], config: StudyConfig, out: Path, jobs: int) -> None:
    """Run a study with a progress bar and the minutes left; a line for each training that is whole."""
    each = config.seeds + (1 + len(config.candidates) if config.candidates else 0)
    trainings = len(worlds) * each * sum(method not in BASELINES for method in config.methods)
    with progress() as bars:
        tasks: dict[tuple, TaskID] = {}
        total, clock, first = bars.add_task("trainings", total=trainings), Clock(trainings), True
        for event in study(worlds, config, out, jobs=jobs):
            if event.method in BASELINES:
                continue
            key, name = event.training, f"{event.world} {event.method} {event.candidate or event.seed}"
            if key not in tasks:
                tasks[key] = bars.add_task(name, total=event.total)
            bars.update(tasks[key], completed=event.done, visible=not event.whole)
            if minutes := clock(event):
                bars.update(total, description=(left := f"trainings, {minutes:.1f} minutes left"))
                if first:
                    console.print(left)
                    first = False
            if event.whole:
                bars.advance(total)
                if event.candidate is None:
                    console.print(f"{name}: {_reached(run_folder(out, event.world, event.method, event.seed))}")


def _reached(run: Path) -> str:
    """The mean NDCG@10 of a run in each split, on the test queries."""
    table = pd.read_parquet(run / "per_query.parquet", columns=["split", "division", "NDCG@10"])
    means = table[table["division"] == "test"].groupby("split", sort=False)["NDCG@10"].mean()
    return "NDCG@10 " + ", ".join(f"{split} {mean:.3f}" for split, mean in means.items())


def _print_study(results: Results) -> None:
    if results.choices:
        print_table(*choices_table(results.choices), title=CHOSEN)
    means = [(method, *row.values()) for method, row in results.averages["NDCG@10"].items()]
    title = f"NDCG@10 on {results.division} queries, means and 95% intervals"
    print_table(["method", *results.splits], means, title=title, numeric=True, bold=[DEFAULT])
    print_table(*order_and_recall(results), title=f"Order and recall, mean of the splits; gains over {results.control}")
    for method, control in ((DEFAULT, results.control), ("gcl-linear", "clip")):
        if gains := results.gains_of(method, control, "NDCG@10"):
            console.print(f"{method} over {control} ({meaning(control)}):")
        for split, difference in gains.items():
            console.print(f"  {split:15s} {difference}")
    console.print("p is not corrected for several comparisons; the report corrects it over the splits")
    warn_of_few(results.queries)
